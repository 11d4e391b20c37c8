"""Megatron-Core's GPTModel, ending in hidden states instead of logits."""

import torch
from megatron.core.models.gpt.gpt_model import GPTModel


class LanguageModel(GPTModel):
    """A GPTModel whose last stage returns its final hidden states.

    The head is applied later and in chunks, on response positions only (`model/logprobs.py`), so the logits of a whole
    row never exist. The head's weight is allocated as in GPTModel.
    """

    def _postprocess(self, hidden_states: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        return hidden_states

    def head_weight(self) -> torch.Tensor:
        """[vocabulary / tp, hidden], this rank's rows of the output matrix; the embedding's where the two are tied."""
        return (
            self.shared_embedding_or_output_weight()
            if self.share_embeddings_and_output_weights
            else self.output_layer.weight
        )

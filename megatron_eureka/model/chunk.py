"""A pipeline chunk of a model on Megatron-Core: what every family has, a decoder and its two ends."""

from __future__ import annotations

import torch
from megatron.core import parallel_state, tensor_parallel
from megatron.core.enums import ModelType
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.utils import sharded_state_dict_default

from megatron_eureka.families.source import ModelSource
from megatron_eureka.model.attention import packed_row
from megatron_eureka.model.language_model import LanguageModel
from megatron_eureka.model.logprobs import Head
from megatron_eureka.model.spec import block_spec
from megatron_eureka.types import MicroBatch


class Chunk(MegatronModule):
    """The embedding on the first chunk, decoder layers, the head on the last; a model of text alone as it is.

    A family that sees adds its tower to the first chunk.

    Attributes:
        language_model: the GPTModel part.
        visual: the vision tower; None on later chunks, and where there is none.
    """

    def __init__(
        self,
        source: ModelSource,
        config: TransformerConfig,
        transformer_engine: bool,
        groups: ProcessGroupCollection,
        vp_stage: int | None,
    ):
        super().__init__(config=config)
        info = source.info
        self.groups, self.vp_stage = groups, vp_stage
        self.pre_process = parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=vp_stage)
        self.post_process = parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=vp_stage)
        self.share_embeddings_and_output_weights = info.tied
        self.model_type = ModelType.encoder_or_decoder  # asked for by Megatron-Core's schedules
        self.language_model = LanguageModel(
            config=config,
            transformer_layer_spec=block_spec(config, transformer_engine, vp_stage),
            vocab_size=info.vocab_size,
            max_sequence_length=info.max_positions,
            pre_process=self.pre_process,
            post_process=self.post_process,
            share_embeddings_and_output_weights=info.tied,
            position_embedding_type="mrope",
            rotary_base=info.rope_theta,
            scatter_embedding_sequence_parallel=False,  # images are merged on the full row first
            pg_collection=groups,
            vp_stage=vp_stage,
        )
        self.visual: torch.nn.Module | None = None

    def set_input_tensor(self, input_tensor) -> None:
        """Take the previous stage's hidden states (called by Megatron-Core's schedules)."""
        tensors = input_tensor if isinstance(input_tensor, list) else [input_tensor]
        self.language_model.set_input_tensor(tensors[0])

    def shared_embedding_or_output_weight(self) -> torch.Tensor | None:
        """The tied matrix, where Megatron-Core sums its gradient over the first and the last stage."""
        return self.language_model.shared_embedding_or_output_weight()

    def forward(self, row: MicroBatch, image_embeddings: torch.Tensor | None = None) -> torch.Tensor:
        """Hidden states of a packed row on this model's device.

        Args:
            row: the micro-batch; tensors on this device.
            image_embeddings: [visual tokens, hidden] for `row.image_index`; first stage only.

        Returns:
            [tokens, 1, hidden], or [tokens / tp, 1, hidden] under sequence parallelism.
        """
        decoder_input = self._embed(row, image_embeddings) if self.pre_process else None
        return self.language_model(
            input_ids=row.token_ids[None],
            position_ids=row.positions[:, None],
            attention_mask=None,
            decoder_input=decoder_input,
            packed_seq_params=packed_row(row.segments, row.token_ids.device, self.config.params_dtype),
        )

    def _embed(self, row: MicroBatch, image_embeddings: torch.Tensor | None) -> torch.Tensor:
        hidden = self.language_model.embedding(input_ids=row.token_ids[None], position_ids=None)  # [t, 1, H]
        if len(row.image_index):
            assert image_embeddings is not None, "the row has images, but no embeddings were given"
            if len(image_embeddings) != len(row.image_index):
                raise ValueError(
                    f"The row has {len(row.image_index)} image placeholders, the tower gave "
                    f"{len(image_embeddings)} embeddings."
                )
            hidden = hidden.index_copy(0, row.image_index, image_embeddings.unsqueeze(1).to(hidden.dtype))
        if self.config.sequence_parallel:
            hidden = tensor_parallel.scatter_to_sequence_parallel_region(hidden, group=self.groups.tp)
        return hidden

    def predicting(self, hidden: torch.Tensor, row: MicroBatch) -> torch.Tensor:
        """[targets, hidden]: the state that predicts each target of a row, from what `forward` returned; last stage.

        The same on every tensor-parallel rank; going back, the ranks' partial gradients are summed.
        """
        if self.config.sequence_parallel:  # backward: reduce-scatter
            hidden = tensor_parallel.gather_from_sequence_parallel_region(
                hidden, tensor_parallel_output_grad=True, group=self.groups.tp
            )
        else:  # backward: all-reduce
            hidden = tensor_parallel.copy_to_tensor_model_parallel_region(hidden, group=self.groups.tp)
        return hidden[:, 0].index_select(0, row.predict_index)

    def head(self, temperature: float, banned: torch.Tensor | None, chunk_bytes: int) -> Head:
        """This rank's part of the head, last stage; see there."""
        return Head(self.language_model.head_weight(), self.groups.tp, temperature, banned, chunk_bytes)

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: tuple = (), metadata: dict | None = None) -> dict:
        """The checkpoint form of this chunk (megatron.core.dist_checkpointing)."""
        state = self.language_model.sharded_state_dict(f"{prefix}language_model.", sharded_offsets, metadata)
        if self.visual is not None:
            tp_group = self.groups.tp
            state.update(
                sharded_state_dict_default(
                    self.visual, f"{prefix}visual.", sharded_offsets, metadata, tp_group=tp_group
                )
            )
        return state

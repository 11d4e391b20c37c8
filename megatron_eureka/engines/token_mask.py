"""Tokens that no response may hold, masked inside vLLM once for the whole batch; see `suppress`.

As `logit_bias` of every request the same ids would be laid out again at each start and end of a request.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.sample.logits_processor.interface import LogitsProcessor
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as RunnerV2LogitsProcessor

TOKEN_MASK = f"{__name__}:TokenMask"
TOKENS_KEY = "megatron_eureka_suppressed_token_ids"  # in vLLM's additional_config: a list of ids


class TokenMask(LogitsProcessor, RunnerV2LogitsProcessor):
    """Gives the engine's suppressed tokens a logit of -inf, before temperature and log-probs.

    vLLM has two model runners (the second is CUDA's default) with an interface each; this class serves both.
    """

    def __init__(self, vllm_config: Any, *runner: Any) -> None:
        """`runner` is (device, whether memory is pinned) for one model runner, (states of requests,) for the other."""
        device = runner[0] if isinstance(runner[0], torch.device) else runner[0].device
        self._token_ids = torch.tensor(vllm_config.additional_config[TOKENS_KEY], dtype=torch.int64, device=device)

    def apply(self, logits: torch.Tensor, *context: Any) -> torch.Tensor:
        """logits [rows, vocabulary], changed in place."""
        return logits.index_fill_(-1, self._token_ids, float("-inf"))

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        """Nothing depends on the requests."""

"""Generating responses with vLLM. `colocated` and `plugin` import vLLM, the rest does not."""

from megatron_eureka.rollout.protocol import (
    Engine,
    GenerateRequest,
    Refusal,
    SamplingOptions,
    WeightSource,
    sampling_seed,
)
from megatron_eureka.rollout.suppress import stop_token_ids, suppressed_token_ids

__all__ = [
    "Engine",
    "GenerateRequest",
    "Refusal",
    "SamplingOptions",
    "WeightSource",
    "sampling_seed",
    "stop_token_ids",
    "suppressed_token_ids",
]

"""Engines that draw responses, and what runs inside vLLM. Only `colocated` and what vLLM loads import it."""

from megatron_eureka.engines.protocol import (
    Engine,
    GenerateRequest,
    Rejection,
    SamplingOptions,
    WeightSource,
    sampling_seed,
)
from megatron_eureka.engines.suppress import stop_token_ids, suppressed_token_ids

__all__ = [
    "Engine",
    "GenerateRequest",
    "Rejection",
    "SamplingOptions",
    "WeightSource",
    "sampling_seed",
    "stop_token_ids",
    "suppressed_token_ids",
]

"""What a rollout engine is built from."""

from __future__ import annotations

import math
from dataclasses import dataclass

from megatron_eureka.config.schema import Config
from megatron_eureka.families.source import ModelSource
from megatron_eureka.planner.memory import kv_bytes_per_token
from megatron_eureka.weights import vision_tensors

KV_BLOCK_TOKENS = 128  # of vLLM's CPU attention


@dataclass(frozen=True)
class EngineOptions:
    """What an engine is built from.

    Raises:
        ValueError: an engine shall load its weights from a Megatron checkpoint.
    """

    source: ModelSource  # a Megatron checkpoint only where the weights come by an update
    tp: int = 1
    dtype: str = "float32"  # a torch name
    max_model_tokens: int = 2048  # prompt, expanded, and response
    max_num_seqs: int = 256
    max_images: int = 8  # of one prompt
    max_pixels: int = 640 * 28 * 28
    kv_cache_bytes: int = 64 << 20  # CPU
    gpu_memory_utilization: float = 0.3  # CUDA
    seed: int = 0
    from_folder: bool = True  # False: start with arbitrary weights and wait for the first update
    frozen: tuple[str, ...] = ()  # Hugging Face tensors that only a complete update brings
    suppressed: tuple[int, ...] | None = None  # tokens that no response may hold; None: those of the model's folder

    def __post_init__(self) -> None:
        if self.from_folder and not self.source.has_hf_weights:
            raise ValueError(
                f"An engine cannot load weights from the Megatron checkpoint {self.source.path}. Build it with "
                "from_folder=False and update its weights, or convert the checkpoint to a Hugging Face folder."
            )

    def check_kv_cache(self) -> None:
        """Refuse a KV cache of `kv_cache_bytes` that the longest response does not fit into, before vLLM does.

        Raises:
            ValueError: with the size that is needed.
        """
        token_bytes = kv_bytes_per_token(self.source.info, self.tp, {"float32": 4}.get(self.dtype, 2))
        # vLLM keeps one block to itself.
        needed_bytes = token_bytes * KV_BLOCK_TOKENS * (1 + math.ceil(self.max_model_tokens / KV_BLOCK_TOKENS))
        if needed_bytes > self.kv_cache_bytes:
            raise ValueError(
                f"One prompt with its response, {self.max_model_tokens} tokens (data.max_prompt_tokens + "
                f"rollout.max_response_tokens), needs {math.ceil(needed_bytes / 2**20)} MiB of KV cache; "
                f"rollout.kv_cache_mib is {self.kv_cache_bytes >> 20}. Raise it; with more, more responses are "
                "generated at once."
            )

    @classmethod
    def from_config(cls, config: Config, source: ModelSource, **changes: object) -> EngineOptions:
        """The options of a run; the frozen tower's tensors are left out of updates after the first.

        From a Megatron checkpoint an engine starts empty: the trainer's first update brings the weights.
        """
        rollout = config.rollout
        values = {
            "source": source,
            "tp": rollout.tp,
            "dtype": {"fp32": "float32", "bf16": "bfloat16"}[config.precision.dtype],
            "max_model_tokens": config.data.max_prompt_tokens + rollout.max_response_tokens,
            "max_num_seqs": rollout.max_num_seqs,
            "max_pixels": config.data.max_pixels,
            "kv_cache_bytes": rollout.kv_cache_mib << 20,
            "gpu_memory_utilization": rollout.gpu_memory_utilization,
            "seed": config.train.seed,
            "from_folder": source.has_hf_weights,
            "frozen": tuple(vision_tensors(source.info)) if config.model.freeze_vision else (),
        }
        return cls(**(values | changes))

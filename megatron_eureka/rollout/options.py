"""What a rollout engine is built from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megatron_eureka.config.model_folder import find_model_folder, is_megatron_checkpoint
from megatron_eureka.config.model_info import ModelInfo
from megatron_eureka.config.schema import Config
from megatron_eureka.weights import hf_tensors


@dataclass(frozen=True)
class EngineOptions:
    """What an engine is built from.

    Raises:
        ValueError: an engine shall load its weights from a Megatron checkpoint.
    """

    model: str  # Hugging Face folder; a Megatron checkpoint where the weights come by an update
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

    def __post_init__(self) -> None:
        if self.from_folder and is_megatron_checkpoint(Path(self.model)):
            raise ValueError(
                f"An engine cannot load weights from the Megatron checkpoint {self.model}. Build it with "
                "from_folder=False and update its weights, or convert the checkpoint to a Hugging Face folder."
            )

    @classmethod
    def from_config(cls, config: Config, **changes: object) -> EngineOptions:
        """The options of a run; the frozen tower's tensors are left out of updates after the first.

        From a Megatron checkpoint an engine starts empty: the trainer's first update brings the weights.
        """
        rollout, info = config.rollout, ModelInfo.from_folder(config.model.path)
        tower = (name for name in hf_tensors(info) if name.startswith("visual."))
        values = {
            "model": config.model.path,
            "tp": rollout.tp,
            "dtype": {"fp32": "float32", "bf16": "bfloat16"}[config.precision.dtype],
            "max_model_tokens": config.data.max_prompt_tokens + rollout.max_response_tokens,
            "max_num_seqs": rollout.max_num_seqs,
            "max_pixels": config.data.max_pixels,
            "kv_cache_bytes": rollout.kv_cache_mib << 20,
            "gpu_memory_utilization": rollout.gpu_memory_utilization,
            "seed": config.train.seed,
            "from_folder": find_model_folder(config.model.path).kind == "hf",
            "frozen": tuple(tower) if config.model.freeze_vision else (),
        }
        return cls(**(values | changes))

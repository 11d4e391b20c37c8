"""The ways in which gpu_check runs the same programs: device, precision, layers, attention, and how rows are cut."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Variant:
    """One process's settings."""

    name: str
    device: str  # "cpu" or "cuda"
    dtype: str  # as precision.dtype
    spec: str = "local"  # as model.spec
    attention: str = "segments"  # "segments" (torch's SDPA, segment by segment) or "flash" (flash-attention, one call)
    row_tokens: int = 4096  # as train.max_tokens_per_microbatch

    def to_dict(self) -> dict:
        return asdict(self)


REFERENCE = Variant("cpu fp32", "cpu", "fp32")
CPU_ROWS = Variant("cpu fp32, small rows", "cpu", "fp32", row_tokens=80)
YARDSTICK = Variant("cpu bf16", "cpu", "bf16")
CUDA_FP32 = Variant("cuda fp32", "cuda", "fp32")
CUDA_ROWS = Variant("cuda fp32, small rows", "cuda", "fp32", row_tokens=80)
CUDA_BF16 = Variant("cuda bf16", "cuda", "bf16")
CUDA_FLASH = Variant("cuda bf16 flash", "cuda", "bf16", attention="flash")
CUDA_TE = Variant("cuda bf16 te", "cuda", "bf16", spec="te")
CUDA_TE_FLASH = Variant("cuda bf16 te flash", "cuda", "bf16", spec="te", attention="flash")

# Compared with REFERENCE: those in fp32 within rounding, those in bf16 within what bf16 costs on the CPU (YARDSTICK).
COMPARED = (CPU_ROWS, CUDA_FP32, CUDA_ROWS, CUDA_BF16, CUDA_FLASH, CUDA_TE, CUDA_TE_FLASH)
TIMED = (CUDA_BF16, CUDA_FLASH, CUDA_TE, CUDA_TE_FLASH)


def is_installed(module: str) -> bool:
    """Whether a top-level module can be found, without importing it."""
    return importlib.util.find_spec(module) is not None


def why_not(variant: Variant, has_cuda: bool, installed: Callable[[str], bool] = is_installed) -> str | None:
    """The reason why a variant cannot run on this machine, or None."""
    if variant.device == "cuda" and not has_cuda:
        return "torch sees no CUDA device"
    if variant.spec == "te" and not installed("transformer_engine"):
        return "transformer-engine is not installed"
    if variant.attention == "flash" and not installed("flash_attn"):
        return "flash-attn is not installed"
    return None

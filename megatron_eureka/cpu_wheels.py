"""Let wheels that are linked against CUDA import beside a CPU build of torch.

PyPI has no CPU wheels of torchvision, torchaudio and torchcodec, yet vLLM and transformers import them. Beside a CPU
torch, torchvision's compiled operators cannot load, and its Python part then fails on two missing operator schemas;
torchaudio and torchcodec die with OSError, which their users do not catch. `allow_cuda_linked_wheels` declares the two
schemas just before they are looked up and makes the other two packages look absent. Pure-Python torchvision (tensor
resizing, which the image processor uses) works. Nothing happens where torch is a CUDA build.
"""

import importlib.abc
import importlib.util
import sys
from pathlib import Path

_SCHEMA = "{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_library = None  # keeps the declared schemas alive for the life of the process


def is_cpu_torch() -> bool:
    """Whether the installed torch is a build without CUDA; torch itself is not imported."""
    spec = importlib.util.find_spec("torch")
    return bool(spec and spec.origin) and not Path(spec.origin).with_name("lib").joinpath("libtorch_cuda.so").exists()


class _DeclareTorchvisionOperators(importlib.abc.MetaPathFinder):
    """Never finds a module itself: it acts at the moment torchvision looks its operators up."""

    def find_spec(self, fullname, path=None, target=None):
        global _library
        if fullname == "torchvision._meta_registrations" and _library is None:
            import torch

            _library = torch.library.Library("torchvision", "FRAGMENT")
            for name in ("nms", "qnms"):
                _library.define(_SCHEMA.format(name=name))
        return None


def allow_cuda_linked_wheels() -> None:
    """Install the import hook once; a no-op on CUDA builds of torch."""
    if not is_cpu_torch() or any(isinstance(finder, _DeclareTorchvisionOperators) for finder in sys.meta_path):
        return
    for name in ("torchaudio", "torchcodec"):
        sys.modules.setdefault(name, None)
    sys.meta_path.insert(0, _DeclareTorchvisionOperators())

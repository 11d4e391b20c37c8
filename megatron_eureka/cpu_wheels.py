"""Let wheels that are linked against CUDA import beside a CPU build of torch.

PyPI has no CPU wheels of torchvision, torchaudio and torchcodec, yet vLLM and transformers import them. Beside a CPU
torch, torchvision's compiled operators cannot load, and its Python part then fails on two missing operator schemas;
torchaudio and torchcodec die with OSError, which their users do not catch. `allow_cuda_linked_wheels` declares the two
schemas just before they are looked up and makes the other two packages look absent. Pure-Python torchvision (tensor
resizing, which the image processor uses) works. Nothing happens where torch is a CUDA build.

The package does it on import, and where `tools/setup/megatron_eureka_cpu_wheels.pth` is in site-packages, every
interpreter at its start: so this file imports nothing that takes time.
"""

import os
import sys
from importlib.machinery import PathFinder

_SCHEMA = "{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_library = None  # keeps the declared schemas alive for the life of the process


def is_cpu_torch() -> bool:
    """Whether the installed torch is a build without CUDA; torch itself is not imported."""
    spec = PathFinder.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    return not os.path.exists(os.path.join(os.path.dirname(spec.origin), "lib", "libtorch_cuda.so"))


class _DeclareTorchvisionOperators:
    """A finder that never finds a module: it acts at the moment torchvision looks its operators up."""

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
    if any(isinstance(finder, _DeclareTorchvisionOperators) for finder in sys.meta_path) or not is_cpu_torch():
        return
    for name in ("torchaudio", "torchcodec"):
        sys.modules.setdefault(name, None)
    sys.meta_path.insert(0, _DeclareTorchvisionOperators())

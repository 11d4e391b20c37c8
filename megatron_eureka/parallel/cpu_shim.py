"""Megatron-Core 0.16.1 on a machine without CUDA, over gloo. Does nothing where CUDA is.

Megatron-Core asks `torch.cuda` for the current device, for streams and for the RNG state all over its modules.
`install` gives each loaded `megatron.core` module its own view of the name `torch`, in which the current device is the
CPU; torch itself, `torch.cuda` and every other package keep their behaviour. Three places need more than a view and
have a context manager or a fix of their own below, each with its reason.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import types

import torch

_CPU = torch.device("cpu")

# Imported by Megatron-Core inside functions: they must be loaded before their name `torch` can be exchanged.
_LATE_MODULES = (
    "megatron.core.distributed",
    "megatron.core.models.gpt.gpt_model",
    "megatron.core.models.gpt.gpt_layer_specs",
    "megatron.core.optimizer",
    "megatron.core.pipeline_parallel.schedules",
    "megatron.core.dist_checkpointing.exchange_utils",
    "megatron.core.dist_checkpointing.strategies.async_utils",
    "megatron.core.dist_checkpointing.strategies.filesystem_async",
    "megatron.core.dist_checkpointing.strategies.fully_parallel",
    "megatron.core.dist_checkpointing.strategies.state_dict_saver",
    "megatron.core.dist_checkpointing.strategies.torch",
)
_FACTORIES = ("zeros", "ones", "empty", "full", "tensor", "arange", "empty_like", "zeros_like", "ones_like")


class _View(types.ModuleType):
    """A module that answers some names itself and passes the others on to the module it stands for."""

    def __init__(self, real: types.ModuleType, **answers):
        super().__init__(real.__name__)
        self.__dict__.update(answers, _real=real)

    def __getattr__(self, name):
        return getattr(self.__dict__["_real"], name)


class _Stream:
    """A stream or event with nothing to wait for."""

    def __init__(self, *args, **kwargs):
        pass

    def _nothing(self, *args, **kwargs) -> None:
        pass

    wait_stream = wait_event = record_event = synchronize = _nothing


def _on_cpu(factory):
    def create(*args, **kwargs):
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == "cuda":
            kwargs["device"] = _CPU
        kwargs.pop("pin_memory", None)
        return factory(*args, **kwargs)

    return create


def _torch_view() -> _View:
    def nothing(*args, **kwargs):
        return None

    cuda = _View(
        torch.cuda,
        current_device=lambda: _CPU,
        synchronize=nothing,
        empty_cache=nothing,
        set_device=nothing,
        Stream=_Stream,
        current_stream=_Stream,
        default_stream=_Stream,
        stream=lambda stream: contextlib.nullcontext(),
        get_rng_state=lambda *args, **kwargs: torch.get_rng_state(),
        manual_seed=nothing,
    )
    return _View(torch, cuda=cuda, **{name: _on_cpu(getattr(torch, name)) for name in _FACTORIES})


def install() -> None:
    """Give every `megatron.core` module that is loaded, or loads late, the CPU view of torch. Idempotent."""
    if torch.cuda.is_available():
        return
    for name in _LATE_MODULES:
        importlib.import_module(name)
    random = sys.modules["megatron.core.tensor_parallel.random"]
    if random.torch is not torch:
        return
    random._get_cuda_rng_state = lambda device="cuda", clone=False, graph_safe=False: torch.get_rng_state()
    random._set_cuda_rng_state = lambda state, device=-1, graph_safe=False: torch.set_rng_state(state)
    view = _torch_view()
    for name, module in sys.modules.copy().items():  # a copy is atomic: a thread beside may be importing vLLM
        if name.startswith("megatron.core") and getattr(module, "torch", None) is torch:
            module.torch = view


@contextlib.contextmanager
def cuda_type_names():
    """Around building the optimizer and around its `step`.

    Megatron-Core sorts gradients by comparing `tensor.type()` with "torch.cuda.FloatTensor".
    """
    if torch.cuda.is_available():
        yield
        return
    original = torch.Tensor.type

    def type_with_cuda(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        return result if args or kwargs else result.replace("torch.", "torch.cuda.", 1)

    torch.Tensor.type = type_with_cuda
    try:
        yield
    finally:
        torch.Tensor.type = original


@contextlib.contextmanager
def cuda_method_stays():
    """Around building a model with a tied embedding over several stages and around optimizer checkpoints.

    Both call `.cuda()` on tensors.
    """
    if torch.cuda.is_available():
        yield
        return
    original = torch.Tensor.cuda
    torch.Tensor.cuda = lambda self, *args, **kwargs: self
    try:
        yield
    finally:
        torch.Tensor.cuda = original

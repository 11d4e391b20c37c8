"""What runs inside vLLM: the plug-in entry point and the receiving end of weight updates.

vLLM calls `register` in each of its processes. Importing this package makes wheels linked against CUDA importable on a
CPU machine; the call adds the receiver under `BACKEND` to vLLM's factory and the loader under `EMPTY`, and on CPU it
makes the models known as classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader import _LOAD_FORMAT_TO_MODEL_LOADER, register_model_loader
from vllm.model_executor.model_loader.dummy_loader import DummyModelLoader
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)
from vllm.model_executor.model_loader.reload.layerwise import (
    _get_original_loader,
    _place_kernel_tensors,
    get_layerwise_info,
)
from vllm.model_executor.models import ModelRegistry

from megatron_eureka.cpu_wheels import is_cpu_torch
from megatron_eureka.engines.manifest import Manifest
from megatron_eureka.families import FAMILIES

BACKEND = "megatron_eureka"
EMPTY = "megatron_eureka_empty"  # load format of an engine whose weights come by an update
JOB_KEY = "megatron_eureka_job"  # in vLLM's additional_config: a name that no other job on the machine has
CPU_WORKER = "megatron_eureka.engines.cpu_worker.CpuWorker"  # by name: only a CPU may import it


def register() -> None:
    """Entry point of the group `vllm.general_plugins`; may be called any number of times."""
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, ReceivingEngine)
    if EMPTY not in _LOAD_FORMAT_TO_MODEL_LOADER:
        register_model_loader(EMPTY)(EmptyLoader)
    if is_cpu_torch():
        # vLLM would look at the model in a fresh interpreter, which imports torchvision before any plug-in can act. It
        # does so to keep CUDA out of this process; without CUDA there is nothing to keep out, and seconds to save.
        for family in FAMILIES.values():
            ModelRegistry.register_model(family.architecture, family.named("vllm_class"))


class EmptyLoader(DummyModelLoader):
    """Arbitrary weights, and everything else as the model made it.

    vLLM's own `dummy` fills buffers too, among them the mean and the scale of pixels, which no update brings again.
    """

    def load_weights(self, model: torch.nn.Module, model_config: object) -> None:
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        super().load_weights(model, model_config)
        for buffer, value in buffers:
            buffer.copy_(value)


@dataclass
class InitInfo(WeightTransferInitInfo):
    """What updates will consist of."""

    shapes: dict[str, tuple[int, ...]]  # of every Hugging Face tensor of the model, by on-disk name
    frozen: list[str] = field(default_factory=list)  # those that may be missing after one complete update


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """One part of an update. Sender and worker share a process, so tensors travel as they are."""

    tensors: list[tuple[str, torch.Tensor]]  # full, by on-disk name; the worker may keep them until the finish


class ReceivingEngine(WeightTransferEngine[InitInfo, UpdateInfo]):
    """Loads full Hugging Face tensors into a worker's model between start and finish, and keeps count.

    Each update runs in vLLM's layer-wise reload: weights are packed and fused anew layer by layer, into the storage
    that the kernels use. An update is good only if `finish_weight_update` returned.
    """

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        names = {name for name, _ in self.model.named_parameters()}
        self.manifest = Manifest(init_info.shapes, frozenset(init_info.frozen), names)

    def start_weight_update(self) -> None:
        self._restore_kernel_tensors()  # an update that failed before may have left layers half loaded
        self.manifest.start()
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict) -> None:
        # The base class would synchronise an accelerator here. On CUDA the copies below run on the current stream,
        # which the next forward pass runs on too.
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: UpdateInfo) -> None:
        """Load one part: its tensors together, since vLLM walks all modules of the model for each call.

        Raises:
            ValueError: a tensor is unknown, misshapen or came twice, or no parameter of the model took it.
        """
        for name, tensor in update_info.tensors:
            self.manifest.receive(name, tuple(tensor.shape))
        for frozen in (False, True):
            part = [(name, tensor) for name, tensor in update_info.tensors if self.manifest.is_frozen(name) == frozen]
            # As a load from disk would have it: some CPU kernels keep biases in float32 and would take more digits.
            cast = ((name, tensor.to(self.model_config.dtype)) for name, tensor in part)
            if part:
                self.manifest.took([name for name, _ in part], self.model.load_weights(cast))

    def finish_weight_update(self) -> None:
        """Process what is left and check that the update was complete.

        Raises:
            ValueError: tensors or parameters are missing.
        """
        self.manifest.check_complete()
        self._check_layers_complete()
        finalize_layerwise_reload(self.model, self.model_config)
        self._repack_tied_head()
        self.manifest.finish()

    def shutdown(self) -> None:
        pass

    def _check_layers_complete(self) -> None:
        """No layer holds some of its weights and waits for others, as it would if a part of a fused one were lost."""
        for name, layer in self.model.named_modules():
            info = get_layerwise_info(layer)
            if info.can_load() and 0 < info.load_numel < info.load_numel_total:
                raise ValueError(
                    f"Layer {name} received {info.load_numel} of {info.load_numel_total} elements in this update."
                )

    def _restore_kernel_tensors(self) -> None:
        for layer in self.model.modules():
            info = get_layerwise_info(layer)
            if not info.can_load():
                continue
            _place_kernel_tensors(layer, info)
            for parameter in layer.parameters(recurse=False):
                if hasattr(parameter, "weight_loader"):
                    parameter.weight_loader = _get_original_loader(parameter)
            info.reset()

    def _repack_tied_head(self) -> None:
        """On CPU the head's packed copy of a tied embedding is not part of the reload and would stay as it was."""
        if self.device.type != "cpu" or not self.model_config.hf_config.tie_word_embeddings:
            return
        from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

        for module in self.model.modules():
            if isinstance(module, ParallelLMHead) and hasattr(module, "cpu_linear"):
                dispatch_cpu_unquantized_gemm(module, remove_weight=False)

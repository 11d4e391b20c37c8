"""Building all chunks of a rank, and the names that their parameters have in the whole model."""

from __future__ import annotations

import torch
from megatron.core.process_groups_config import ProcessGroupCollection

from megatron_eureka.config.schema import Model, Parallel, Precision
from megatron_eureka.families.source import ModelSource
from megatron_eureka.model.chunk import Chunk
from megatron_eureka.model.spec import transformer_config, uses_transformer_engine
from megatron_eureka.parallel import cpu_shim
from megatron_eureka.parallel.groups import device


def build_model(
    source: ModelSource, options: Model, parallel: Parallel, precision: Precision, groups: ProcessGroupCollection
) -> list[Chunk]:
    """This rank's chunks of a model, without its weights: one chunk, or `parallel.vpp` of them."""
    build: type[Chunk] = source.family.named("chunk")
    core_config = transformer_config(source.info, parallel, precision)
    engine = uses_transformer_engine(options.spec)
    chunks = []
    with cpu_shim.cuda_method_stays():
        for vp_stage in range(parallel.vpp):
            chunk = build(source, core_config, engine, groups, vp_stage if parallel.vpp > 1 else None)
            if chunk.visual is not None:
                _prepare_tower(chunk.visual, options.freeze_vision)
            chunks.append(chunk.to(device()))
    return chunks


def _prepare_tower(tower: torch.nn.Module, frozen: bool) -> None:
    """Freeze the tower, or have Megatron-Core average its gradients over the tensor-parallel ranks, which all run it.

    The ranks compute the same gradients; CUDA kernels that sum in no fixed order would let them drift apart. gloo has
    no average, and on CPU the gradients are the same to the bit.
    """
    tower.requires_grad_(not frozen)
    for parameter in tower.parameters():
        parameter.average_gradients_across_tp_domain = torch.cuda.is_available()


def named_weights(chunks: list[Chunk]) -> dict[str, torch.nn.Parameter]:
    """This rank's parameters under their global names: layers numbered over the whole model, not over the chunk."""
    weights = {}
    for chunk in chunks:
        offset = chunk.language_model.decoder.layers[0].layer_number - 1
        for name, parameter in chunk.named_parameters():
            weights[_global_name(name, offset)] = parameter
    return weights


def _global_name(name: str, offset: int) -> str:
    prefix = "language_model.decoder.layers."
    if not name.startswith(prefix):
        return name
    number, rest = name[len(prefix) :].split(".", 1)
    return f"{prefix}{int(number) + offset}.{rest}"

"""Megatron checkpoints as Megatron-Core itself writes them, and what a rank holds after one was loaded."""

from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing

from megatron_eureka.checkpoints import load_hf
from megatron_eureka.checkpoints.companions import describe
from megatron_eureka.checkpoints.in_process_writer import InProcessSaveStrategy
from megatron_eureka.checkpoints.megatron_loader import load_megatron
from megatron_eureka.families.source import ModelSource
from megatron_eureka.model import chunk
from megatron_eureka.model.build import build_model, named_weights
from megatron_eureka.parallel import cpu_shim, groups
from megatron_eureka.parallel.layout import Layout
from tests.model import te_names
from tests.model.reference import config_for


def build(hf: Path, layout: Layout, dtype: str = "fp32", te: bool = False):
    """This rank's chunks, every weight NaN so that an untouched one shows, and their sizes."""
    process_groups = groups.start(layout, seed=1, timeout_s=60)
    if te:  # the rank is a process of its own
        chunk.block_spec = te_names.block_spec
    config = config_for(str(hf), layout, precision={"dtype": dtype}, freeze_vision=True)
    chunks = build_model(ModelSource.open(hf), config.model, config.parallel, config.precision, process_groups)
    with torch.no_grad():
        for parameter in named_weights(chunks).values():
            parameter.fill_(torch.nan)
    return chunks, ModelSource.open(hf).info


def from_hf(hf: Path, layout: Layout, dtype: str = "fp32", te: bool = False):
    """This rank's chunks with the weights of a Hugging Face folder, and their sizes."""
    chunks, info = build(hf, layout, dtype, te)
    with torch.no_grad():
        load_hf(hf, named_weights(chunks), info, groups.coordinates(layout).tp, layout.tp)
    return chunks, info


def save(rank, world, hf, layout, folder, dtype="fp32", te=False, one_by_one=False, bare=False):
    """On each rank: write the model of a Hugging Face folder as a checkpoint.

    Args:
        one_by_one: layers are stored one by one instead of stacked.
        bare: without any `_extra_state`.
    """
    chunks, _ = from_hf(hf, layout, dtype, te)
    if rank == 0:
        folder.mkdir(parents=True)
    dist.barrier()
    metadata = {"non_homogeneous_layers": one_by_one}
    with cpu_shim.cuda_method_stays():
        state = {f"model{n}": chunk.sharded_state_dict(metadata=metadata) for n, chunk in enumerate(chunks)}
        if bare:
            state = {n: {k: v for k, v in part.items() if "_extra_state" not in k} for n, part in state.items()}
        dist_checkpointing.save(state, str(folder), InProcessSaveStrategy())
    if rank == 0:
        axes = {"tp": layout.tp, "pp": layout.pp, "vpp": layout.vpp}
        describe(folder, ModelSource.open(hf), layout=axes, dtype=chunks[0].config.params_dtype)


def differing(rank, world, hf, layout, folder, dtype="fp32", te=False, stored_dtype=None):
    """On each rank: load the checkpoint at a layout -> names that differ from the Hugging Face folder's, all names.

    Args:
        stored_dtype: of the checkpoint, where the values were rounded to it.
    """
    expected, _ = from_hf(hf, layout, dtype, te)
    chunks, info = build(hf, layout, dtype, te)
    load_megatron(folder, chunks, named_weights(chunks), info)
    expected, loaded = named_weights(expected), named_weights(chunks)
    assert expected.keys() == loaded.keys()
    rounded = {name: weight.to(stored_dtype or weight.dtype).to(weight.dtype) for name, weight in expected.items()}
    return [name for name in loaded if not torch.equal(loaded[name], rounded[name])], list(loaded)


def rejection(rank, world, hf, layout, folder):
    """On each rank: why a checkpoint is not loaded into the model of a Hugging Face folder."""
    chunks, info = build(hf, layout)
    try:
        load_megatron(folder, chunks, named_weights(chunks), info)
    except ValueError as error:
        return str(error)
    return "it was loaded"

"""Checkpoints of a run: Megatron-Core's `torch_dist` format for weights and optimizer, plain objects beside them.

Each one is a model folder too, from whose weights another run can start.

A checkpoint appears under its final name only when every rank has written its part; a run that dies while saving
leaves a `.tmp` folder that is ignored and removed at the next start.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from torch.distributed.checkpoint.api import CheckpointException

from megatron_eureka.checkpoints.companions import describe
from megatron_eureka.checkpoints.damage import read_plain_objects
from megatron_eureka.checkpoints.in_process_writer import InProcessSaveStrategy
from megatron_eureka.checkpoints.megatron_loader import first_cause, load_sharded, reason
from megatron_eureka.files import disk_full
from megatron_eureka.parallel import cpu_shim
from megatron_eureka.runs.folder import steps_newest_first
from megatron_eureka.runs.saved_layout import LAYOUT, saved_layout
from megatron_eureka.train.policy import Policy, torch_adams

# Optimizer shards follow this layout; moving them to another one is a different (slower) form.
_OPTIMIZER_FORM = {"distrib_optim_sharding_type": "dp_reshardable"}


def _state(policy: Policy, is_loading: bool) -> dict[str, Any]:
    chunks = {f"model{number}": chunk.sharded_state_dict() for number, chunk in enumerate(policy.model)}
    if len(chunks) == 1:
        chunks = {"model": chunks["model0"]}
    optimizer = policy.optimizer.sharded_state_dict(
        chunks.get("model", chunks), is_loading=is_loading, metadata=_OPTIMIZER_FORM
    )
    return {**chunks, "optimizer": optimizer}


def _spec(policy: Policy) -> str:
    """The layer spec that the model was built with: under Transformer Engine's, norms lie inside the linears."""
    return "te" if any(name.endswith("layer_norm_weight") for name in policy.weights()) else "local"


def save(policy: Policy, folder: Path, progress: dict[str, Any], keep: int) -> None:
    """Write `folder`; a collective over all ranks. Older checkpoints beside it are removed down to `keep`.

    Args:
        progress: plain objects that say where the run is; rank 0's are written.

    Raises:
        RuntimeError: a rank could not write its part (a full disk, say), or `model.path`, whose small files go into it,
            is gone; the checkpoints from before stay whole.
    """
    temporary = folder.with_name(folder.name + ".tmp")
    try:
        if dist.get_rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        dist.barrier()
        with cpu_shim.cuda_method_stays():
            state = _state(policy, is_loading=False)
            plain = {"progress": progress, "spec": _spec(policy)}
            dist_checkpointing.save({**state, **plain}, str(temporary), InProcessSaveStrategy())
        if dist.get_rank() == 0:
            (temporary / LAYOUT).write_text(json.dumps(vars(policy.layout)), "utf-8")
            _make_model_folder(policy, temporary)
        dist.barrier()
    except (OSError, RuntimeError, CheckpointException, ValueError) as error:
        full = disk_full(folder, first_cause(error))
        if dist.get_rank() == 0:  # the other ranks end with this one, or failed with it
            shutil.rmtree(temporary, ignore_errors=True)
        why = full or f"{reason(error)}. Mend it and start the same command again."  # the model's folder is gone, say
        raise RuntimeError(
            f"The checkpoint {folder} could not be written. {why} The run goes on from the checkpoint before."
        ) from error
    if dist.get_rank() == 0:
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        _prune(folder.parent, keep)
    dist.barrier()


def _make_model_folder(policy: Policy, folder: Path) -> None:
    """Put the model's small files into a checkpoint, so that another run can start from its weights."""
    axes = {name: getattr(policy.layout, name) for name in ("tp", "pp", "vpp")}
    describe(folder, policy.source, layout=axes, dtype=policy.model[0].config.params_dtype)


def _prune(folder: Path, keep: int) -> None:
    for path in steps_newest_first(folder)[keep:]:
        shutil.rmtree(path)


@torch.no_grad()
def load(policy: Policy, folder: Path) -> dict[str, Any]:
    """Restore weights and optimizer from `folder`; a collective over all ranks.

    Returns:
        the `progress` that was saved.

    Raises:
        ValueError: the checkpoint was written under another layout or layer spec, which its optimizer state cannot
            follow yet, or it is damaged.
    """
    saved_layout(folder).check(vars(policy.layout))
    _check_spec(policy, folder)
    _allocate_adam_state(policy)
    with cpu_shim.cuda_method_stays():
        state = _state(policy, is_loading=True)
        loaded = load_sharded(state, folder)
        for number, chunk in enumerate(policy.model):
            chunk.load_state_dict(loaded.get("model", loaded.get(f"model{number}")))
        step = loaded["optimizer"]["optimizer"]["param_groups"][0].get("step")
        policy.optimizer.load_state_dict(loaded["optimizer"])
    if step is not None:
        _set_adam_step(policy, step)
    return loaded["progress"]


def _check_spec(policy: Policy, folder: Path) -> None:
    """The optimizer's state is stored as long rows, in the order in which this spec happens to name its parameters."""
    saved, mine = read_plain_objects(folder).get("spec"), _spec(policy)
    if saved not in (mine, None):
        raise ValueError(
            f"The checkpoint {folder} was written under the layer spec {saved!r}; this run has {mine!r}. Resume with "
            f"model.spec={saved}, or start another run from its weights, with model.path={folder}."
        )


def _allocate_adam_state(policy: Policy) -> None:
    """torch's Adam allocates at its first step; Megatron-Core's loader wants the tensors to be there."""
    for adam in torch_adams(policy.optimizer):
        for group in adam.param_groups:
            for parameter in group["params"]:
                if not adam.state[parameter]:
                    zeros = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                    adam.state[parameter] = {"step": torch.tensor(0.0), **zeros}


def _set_adam_step(policy: Policy, step: float) -> None:
    """Give each parameter a step counter of its own.

    Megatron-Core's loader leaves one shared tensor, which torch's Adam would count up once for each parameter.
    """
    for adam in torch_adams(policy.optimizer):
        for state in adam.state.values():
            state["step"] = torch.tensor(float(step))

"""Process groups of a run: torch.distributed, Megatron-Core's parallel state and its seeds, set up once."""

from __future__ import annotations

import datetime
import os

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

from megatron_eureka.parallel import cpu_shim
from megatron_eureka.parallel.layout import Coordinates, Layout


def device() -> torch.device:
    """This rank's device: its GPU, or the CPU where there is no CUDA."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return torch.device("cpu")


def world_size() -> int:
    """Ranks of the job, from the default group or, before there is one, from the launcher's environment."""
    return dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", "1"))


def start(layout: Layout, seed: int, timeout_s: int = 1800) -> ProcessGroupCollection:
    """Join the job's process group (NCCL with CUDA, gloo without) and build Megatron-Core's groups for `layout`.

    Takes rank and world size from the environment that torchrun or srun set; a default group that exists already is
    used as it is.

    Raises:
        ValueError: the layout does not fit the number of ranks.
    """
    where = device()
    if where.type == "cuda":
        torch.cuda.set_device(where)
    if not dist.is_initialized():
        backend = "nccl" if where.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=datetime.timedelta(seconds=timeout_s))
    if layout.world_size != dist.get_world_size():
        raise ValueError(f"The layout has {layout.world_size} ranks, the job {dist.get_world_size()}.")
    cpu_shim.install()
    if not parallel_state.model_parallel_is_initialized():
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=layout.tp,
            pipeline_model_parallel_size=layout.pp,
            virtual_pipeline_model_parallel_size=layout.vpp if layout.vpp > 1 else None,
            context_parallel_size=layout.cp,
        )
    torch.manual_seed(seed)
    model_parallel_cuda_manual_seed(seed, inference_rng_tracker=where.type == "cpu", force_reset_rng=True)
    return ProcessGroupCollection.use_mpu_process_groups()


def stop() -> None:
    """Leave Megatron-Core's groups and the job's process group."""
    if parallel_state.model_parallel_is_initialized():
        parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()


def coordinates(layout: Layout) -> Coordinates:
    """This rank's place on each axis."""
    return layout.coordinates(dist.get_rank())

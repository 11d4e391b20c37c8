"""Run a function on several forked gloo ranks and say which rank really failed.

A forked rank starts in 0.2 s, a spawned one imports torch again for seconds. The function is called as
`fn(rank, world, *args)` in each child with the default process group initialised, and its result travels back through
`torch.save`.
"""

from __future__ import annotations

import os
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _entry(rank: int, world: int, fn: Callable, args: tuple, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world))
    try:
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
        dist.barrier()  # a rank that is done before another has connected would look like a crash to it
        torch.save(fn(rank, world, *args), f"{folder}/{rank}.pt")
    except BaseException:  # whatever ends the rank is reported by name; it is raised again below
        # Written under a name that sorts by time, so that the failure that caused the others comes first.
        Path(f"{folder}/{time.monotonic():020.6f}.{rank}.err").write_text(traceback.format_exc())
        raise


def _errors(folder: str) -> str:
    files = sorted(Path(folder).glob("*.err"))
    return "\n".join(f"rank {file.name.split('.')[-2]}:\n{file.read_text()}" for file in files)


def _wait(context: mp.ProcessContext, deadline: float) -> bool:
    """Whether all ranks ended well before the deadline; raises what torch raises when one did not."""
    while time.monotonic() < deadline:
        if context.join(timeout=0.5):
            return True
    return False


def run_ranks(world: int, fn: Callable, *args: Any, timeout: float = 60, method: str = "fork") -> list:
    """Call `fn(rank, world, *args)` on `world` gloo ranks.

    Args:
        world: number of ranks.
        fn: the body; with `method="spawn"` it must be importable by name.
        timeout: seconds after which the ranks are ended.
        method: "fork" or "spawn".

    Returns:
        What each rank returned, in the order of ranks.

    Raises:
        AssertionError: a rank failed (every failure with its traceback, oldest first) or time ran out.
    """
    with tempfile.TemporaryDirectory() as folder:
        deadline = time.monotonic() + timeout
        context = mp.start_processes(
            _entry, args=(world, fn, args, folder), nprocs=world, join=False, start_method=method
        )
        try:
            finished = _wait(context, deadline)
        except (mp.ProcessRaisedException, mp.ProcessExitedException) as error:
            text = _errors(folder) or f"no traceback was written: {error}"
            raise AssertionError(f"{fn.__name__} failed on {world} ranks, oldest failure first\n{text}") from None
        finally:
            alive = [rank for rank, process in enumerate(context.processes) if process.is_alive()]
            for rank in alive:
                context.processes[rank].kill()
            for process in context.processes:
                process.join(timeout=5)
        if not finished:
            raise AssertionError(
                f"{fn.__name__} on {world} ranks ran past {timeout} s; still alive: ranks {alive}\n{_errors(folder)}"
            )
        return [torch.load(f"{folder}/{rank}.pt", weights_only=False) for rank in range(world)]

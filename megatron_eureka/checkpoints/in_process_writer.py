"""Megatron-Core's `torch_dist` writer without helper processes.

Stock Megatron-Core writes a checkpoint from forked children and collects their results through a manager process that
it spawns. The spawn imports the program again (seconds, and hundreds of MB a rank), the manager outlives a killed rank,
and a fork of a process that runs an engine and gloo threads may hang. Here a rank writes its own files.
"""

from __future__ import annotations

import queue
from functools import partial

from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy


class InProcessSaveStrategy(TorchDistSaveShardedStrategy):
    """Writes the same files as its base class, one a rank, in the calling process."""

    def __init__(self):
        super().__init__("torch_dist", 1, thread_count=1)

    def async_save(self, sharded_state_dict, checkpoint_dir) -> AsyncRequest:
        """Plan the save; the request's function writes."""
        filesystem_async._results_queue = queue.Queue()  # else a manager process is spawned for it
        return super().async_save(sharded_state_dict, checkpoint_dir)

    def _get_save_and_finalize_callbacks(self, writer, save_state_dict_ret) -> AsyncRequest:
        request = super()._get_save_and_finalize_callbacks(writer, save_state_dict_ret)
        if request.async_fn is None:  # nothing of this rank's is written
            return request
        transforms = request.async_fn.args[0]
        return request._replace(async_fn=partial(_write, transforms))


def _write(transforms: list, rank: int, write_buckets: list, results: queue.Queue) -> None:
    """Write the buckets one after another, and report as the forked children do: their results, or what went wrong."""
    report: dict | Exception = {}
    for index, bucket in enumerate(write_buckets):
        done, counter = queue.Queue(), queue.Queue()
        counter.put(index)
        FileSystemWriterAsync.write_preloaded_data(transforms, index, bucket, done, counter, True)
        _, outcome = done.get_nowait()
        if isinstance(outcome, Exception):
            report = outcome
            break
        report[index] = outcome
    results.put(report)

"""One run, set up: its steps, what it saves, how it is taken up again, and its end."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist

from megatron_eureka.bridge.source import ShardedSource
from megatron_eureka.checkpoints.damage import DamagedCheckpoint, damage_of
from megatron_eureka.config.schema import Config
from megatron_eureka.data.images import ImageStore
from megatron_eureka.log import logger
from megatron_eureka.parallel.main_rank import run_on_main
from megatron_eureka.runs.folder import RunFolder
from megatron_eureka.runs.metrics_writer import MetricsWriter
from megatron_eureka.runs.timers import Timers
from megatron_eureka.train import checkpoint
from megatron_eureka.train.export import weight_source
from megatron_eureka.train.policy import Policy


@dataclass
class Run:
    """This rank's share of a run. `folder` and `writer` do something on rank 0 only."""

    config: Config
    policy: Policy
    store: ImageStore
    folder: RunFolder
    timers: Timers = field(default_factory=Timers)
    writer: MetricsWriter | None = None
    step: int = 0  # steps done
    updates: int = 0  # optimizer steps done

    @functools.cached_property
    def weight_source(self) -> ShardedSource:
        """The policy's weights as full Hugging Face tensors; made on all ranks together, when first asked for."""
        return weight_source(self.policy)

    @property
    def is_reporting_rank(self) -> bool:
        """Whether this rank writes files and speaks."""
        return dist.get_rank() == 0

    def steps(self) -> Iterator[int]:
        """The numbers of the steps that are left, 1-based; each one counts as done when the next is asked for."""
        while self.step < self.config.train.steps:
            yield self.step + 1
            self.step += 1

    def log(self, step: int, metrics: dict[str, float], console: dict[str, str]) -> None:
        """Record a step's numbers with the time it took, and say them in one line."""
        timings = self.timers.read()
        if self.writer is not None:
            self.writer.write(step, {**metrics, **timings})
            split = " ".join(f"{name.removeprefix('timing_s/')} {value:.1f}" for name, value in timings.items())
            self.writer.console(step, {**console, "s": split})

    def is_due(self, step: int, every: int) -> bool:
        """Whether something that happens `every` so many steps happens after `step`; the last step is not counted."""
        return every > 0 and step % every == 0 and step < self.config.train.steps

    def save(self, step: int, progress: dict[str, Any]) -> None:
        """Write a checkpoint of everything that the run needs to go on after `step`."""
        target = self.folder.checkpoints / f"step_{step}"
        if run_on_main(target.exists, for_all=True):  # of a run that was cut off right after it
            return
        with self.timers("checkpoint"):
            state = {"step": step, "updates": self.updates, **progress}
            checkpoint.save(self.policy, target, state, self.config.checkpoint.keep)

    def resume(self) -> dict[str, Any] | None:
        """Take up the newest checkpoint of the run folder, if there is one; returns the progress that it holds.

        What was logged after it, or without one everything that was logged, is removed: those steps run again.
        """
        progress = None
        for folder in run_on_main(self.folder.checkpoints_newest_first, for_all=True):
            progress = self._load(folder)
            if progress is not None:
                self.step, self.updates = progress["step"], progress["updates"]
                logger.info("resuming %s after step %d", self.folder.path, self.step)
                break
        if self.is_reporting_rank:
            self.folder.rewind(self.step if progress is not None else -1)
        return progress

    def _load(self, folder: Path) -> dict[str, Any] | None:
        """The progress in a checkpoint, which is in place then; None for a damaged one with another one before it.

        Raises:
            ValueError: it is damaged and there is no other, or it is another run's.
        """
        problem = run_on_main(lambda: damage_of(folder), for_all=True)  # at once; a load may wait for its time-out
        if problem is None:
            try:
                return checkpoint.load(self.policy, folder)
            except DamagedCheckpoint as error:
                problem = str(error)
        if run_on_main(self.folder.checkpoints_newest_first, for_all=True)[-1] == folder:
            raise ValueError(
                f"{problem} No other checkpoint of {self.folder.path} is whole. Set logging.resume=never and "
                "logging.overwrite=true to begin again, or choose another logging.name."
            )
        if self.is_reporting_rank:
            aside = self.folder.set_aside(folder)
            logger.warning("%s The run goes on from the checkpoint before it; %s may be removed.", problem, aside)
        dist.barrier()
        return None

    def finish(self) -> None:
        """Mark the run as done and close its files."""
        dist.barrier()
        if self.is_reporting_rank:
            self.folder.finish({"steps": self.step, "updates": self.updates})
        self.close()

    def close(self) -> None:
        """Close files; the run can be resumed."""
        if self.writer is not None:
            self.writer.close()
        self.folder.close()
        self.store.close()

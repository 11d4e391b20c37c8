"""One run, set up: everything that the loops of `grpo.py` and `sft.py` call verbs on."""

from __future__ import annotations

import functools
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch.distributed as dist

from megatron_eureka.bridge.source import ShardedSource
from megatron_eureka.checkpoints import export_hf
from megatron_eureka.checkpoints.damage import DamagedCheckpoint, damage_of
from megatron_eureka.config.model_folder import find_model_folder
from megatron_eureka.config.schema import Config
from megatron_eureka.data.images import ImageStore
from megatron_eureka.files import new_file
from megatron_eureka.log import logger
from megatron_eureka.parallel.main_rank import run_on_main
from megatron_eureka.train import checkpoint
from megatron_eureka.train.metrics import MetricsWriter, Timers
from megatron_eureka.train.policy import Policy
from megatron_eureka.train.run_folder import RunFolder
from megatron_eureka.types import Group
from megatron_eureka.weights import table


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

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and speaks."""
        return dist.get_rank() == 0

    def steps(self) -> Iterator[int]:
        """The numbers of the steps that are left, 1-based; each one counts as done when the next is asked for."""
        while self.step < self.config.train.steps:
            yield self.step + 1
            self.step += 1

    def open_writer(self) -> None:
        """Start recording, after `step` is known."""
        logger.info("ready after %.0f s", time.time() - psutil.Process().create_time())
        if self.is_main:
            options = self.config.logging
            self.writer = MetricsWriter(
                self.folder.path, self.config.train.steps, self.step, options.tensorboard, options.wandb_project
            )

    def log(self, step: int, metrics: dict[str, float], console: dict[str, str]) -> None:
        """Record a step's numbers with the time it took, and say them in one line."""
        timings = self.timers.read()
        if self.writer is not None:
            self.writer.write(step, {**metrics, **timings})
            split = " ".join(f"{name.removeprefix('timing_s/')} {value:.1f}" for name, value in timings.items())
            self.writer.console(step, {**console, "s": split})

    def log_rollouts(
        self, step: int, generated: tuple[Group, ...], trained: tuple[Group, ...], advantages: Any
    ) -> None:
        """Write every generated response with its rewards, and the advantage of those that are trained on."""
        if not self.is_main:
            return
        place = {id(sample): i for i, sample in enumerate(sample for group in trained for sample in group.samples)}
        with new_file(self.folder.rollouts / f"step_{step}.jsonl", errors="backslashreplace") as file:
            for group in {id(group): group for group in (*generated, *trained)}.values():
                for sample in group.samples:
                    index = place.get(id(sample))
                    record = {
                        "prompt_id": group.prompt.id,
                        "messages": without_data_uris(group.prompt.messages),
                        "answer": group.prompt.answer,
                        "response": sample.text,
                        "num_tokens": len(sample.token_ids),
                        "finish_reason": sample.finish_reason,
                        "policy_version": sample.policy_version,
                        "rewards": sample.rewards,
                        "advantage": None if index is None else float(advantages[index]),
                    }
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")

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
        if self.is_main:
            self.folder.rewind(self.step if progress is not None else -1)
        return progress

    def _load(self, folder: Path) -> dict[str, Any] | None:
        """The progress in a checkpoint, which is in place then; None for a damaged one with another one before it.

        Raises:
            ValueError: it is damaged and there is no other, or it is another run's.
        """
        complaint = run_on_main(lambda: damage_of(folder), for_all=True)  # at once; a load may wait for its time-out
        if complaint is None:
            try:
                return checkpoint.load(self.policy, folder)
            except DamagedCheckpoint as error:
                complaint = str(error)
        if run_on_main(self.folder.checkpoints_newest_first, for_all=True)[-1] == folder:
            raise ValueError(
                f"{complaint} No other checkpoint of {self.folder.path} is whole. Set logging.resume=never and "
                "logging.overwrite=true to begin again, or choose another logging.name."
            )
        if self.is_main:
            aside = self.folder.set_aside(folder)
            logger.warning("%s The run goes on from the checkpoint before it; %s may be removed.", complaint, aside)
        dist.barrier()
        return None

    @functools.cached_property
    def weight_source(self) -> ShardedSource:
        """The policy's weights as full Hugging Face tensors, made on all ranks together."""
        policy = self.policy
        frozen = [rule.name for rule in table(policy.info) if rule.name.startswith("visual.")]
        return ShardedSource(
            policy.weights(),
            policy.info,
            tp_group=policy.groups.tp,
            pp_group=policy.groups.pp,
            bucket_bytes=self.config.rollout.sync_bucket_mib << 20,
            frozen=frozen if self.config.model.freeze_vision else (),
        )

    def export(self) -> Path:
        """Write the weights as a Hugging Face folder with tokenizer and processor; a collective over all ranks."""
        target = self.folder.export
        if self.is_main and target.exists():
            shutil.rmtree(target)  # of a run that was cut off right after exporting
        like = find_model_folder(self.config.model.path).hf
        source = self.weight_source
        export_hf(source.stream(), target, like, source.num_tensors, self.is_main)
        dist.barrier()
        return target

    def tell_export(self, next_command: str) -> None:
        """Export, and say where it went and what may follow; a collective over all ranks.

        Args:
            next_command: with `{folder}` in it.
        """
        folder = self.export()
        logger.info("exported to %s; next: %s", folder, next_command.format(folder=folder))

    def finish(self) -> None:
        """Mark the run as done and close its files."""
        dist.barrier()
        if self.is_main:
            self.folder.finish({"steps": self.step, "updates": self.updates})
        self.close()

    def close(self) -> None:
        """Close files; the run can be resumed."""
        if self.writer is not None:
            self.writer.close()
        self.folder.close()
        self.store.close()


def without_data_uris(value: Any) -> Any:
    """Chat turns as they were read, pictures that stand in them as data shortened to their beginning."""
    if isinstance(value, dict):
        return {key: without_data_uris(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_data_uris(item) for item in value]
    return f"{value[:40]}..." if isinstance(value, str) and value.startswith("data:") else value

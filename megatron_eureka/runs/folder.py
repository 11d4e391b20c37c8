"""A run on disk: who may write it, what it holds, and how a cut-off one is taken up again."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from megatron_eureka.files import only_writer, write_atomically
from megatron_eureka.log import logger
from megatron_eureka.runs.changed_options import changed_options

FINISHED = "finished.json"
LOOK_S = 1.0  # a dry run of the same name takes the lock for an instant


class RunFolder:
    """`runs/NAME/`, opened by rank 0 for the life of the run.

    The lock is the operating system's: it goes with the process, so a killed run can be resumed at once.
    """

    def __init__(self, root: str, name: str):
        self.path = Path(root) / name
        self.checkpoints = self.path / "checkpoints"
        self.export = self.path / "export"
        self.rollouts = self.path / "rollouts"
        self.evaluation = self.path / "evaluation"
        self.metrics = self.path / "metrics.jsonl"
        self.images = self.path / ".images"  # resized images that memory does not hold, during the run
        self._held = ExitStack()

    def open(self, resolved_config: str, resume: str, overwrite: bool) -> None:
        """Take the folder for this process and write the resolved config into it.

        Raises:
            ValueError: another process is writing it, it is finished, or it was cut off and `resume` is "never".
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._held.enter_context(self._only_writer())
        self.check(resume, overwrite)
        if overwrite and ((self.path / FINISHED).exists() or resume == "never"):
            self._empty()  # a run that was cut off is continued, so that a requeued job does not begin again
        shutil.rmtree(self.images, ignore_errors=True)  # of a run that was killed
        for folder in (self.checkpoints, self.rollouts):
            folder.mkdir(exist_ok=True)
        self._check_same(resolved_config)
        write_atomically(self.path / "config.yaml", resolved_config)

    def check(self, resume: str, overwrite: bool) -> None:
        """Refuse what `open` would refuse of a folder that no other process writes; for asking before ranks start."""
        if overwrite:
            return
        if (self.path / FINISHED).exists():
            raise ValueError(
                f"The run {str(self.path)!r} is finished. Choose another logging.name, or set logging.overwrite=true."
            )
        if resume == "never" and self.metrics.exists():
            raise ValueError(
                f"The run folder {str(self.path)!r} holds a run that was cut off and logging.resume is 'never'. Set it "
                "to 'auto' to continue, choose another logging.name, or set logging.overwrite=true."
            )

    def preview(self, resolved_config: str, resume: str, overwrite: bool) -> Path | None:
        """Refuse what `open` would refuse, without a trace: for asking long before.

        Returns:
            the checkpoint that the run would go on from.
        """
        existing = next(path for path in (self.path, *self.path.parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            raise ValueError(f"{existing} is no folder that may be written to. Change logging.root or logging.name.")
        if (self.path / ".lock").exists():
            with self._only_writer():
                pass
        self.check(resume, overwrite)
        if overwrite and ((self.path / FINISHED).exists() or resume == "never"):
            return None
        self._check_same(resolved_config)
        return self.last_checkpoint()

    def _check_same(self, resolved_config: str) -> None:
        """Refuse to go on from a checkpoint under options that would make another run of it."""
        before = self.path / "config.yaml"
        if self.last_checkpoint() is None or not before.exists():
            return
        changed = changed_options(before.read_text("utf-8"), resolved_config)
        if changed:
            raise ValueError(
                f"The run folder {str(self.path)!r} holds checkpoints made under other options: {'; '.join(changed)}. "
                "Resume with the same options, or choose another logging.name."
            )

    def _only_writer(self) -> AbstractContextManager[None]:
        what = f"the run folder {str(self.path)!r}"
        return only_writer(self.path / ".lock", what, "choose another logging.name", wait_s=LOOK_S)

    def _empty(self) -> None:
        for entry in self.path.iterdir():
            if entry.name != ".lock":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def checkpoints_newest_first(self) -> list[Path]:
        """The checkpoints that were written to their end; half-written ones have another name and do not count."""
        return steps_newest_first(self.checkpoints)

    def last_checkpoint(self) -> Path | None:
        """The newest of them."""
        return next(iter(self.checkpoints_newest_first()), None)

    def set_aside(self, checkpoint: Path) -> Path:
        """Give a damaged checkpoint a name under which no run finds it; its step will be saved again."""
        aside = checkpoint.with_name(f"{checkpoint.name}.damaged")
        if aside.exists():
            shutil.rmtree(aside)
        return checkpoint.rename(aside)

    def rewind(self, step: int) -> None:
        """Forget what was logged after `step`: those steps will run again. Also removes half-written checkpoints."""
        if self.metrics.exists():
            lines = self.metrics.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step_of(line) is not None and _step_of(line) <= step]
            if len(kept) < len(lines):
                logger.info("resuming after step %d: %d later metric lines are dropped", step, len(lines) - len(kept))
            write_atomically(self.metrics, "".join(line + "\n" for line in kept))
        for path in [*self.rollouts.glob("step_*"), *self.evaluation.glob("step_*")]:
            if int(path.stem.removeprefix("step_")) > step:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in self.checkpoints.glob("*.tmp"):
            shutil.rmtree(path)
        for path in self.path.glob(".*.tmp"):
            path.unlink()

    def finish(self, summary: dict) -> None:
        """Mark the run as done."""
        shutil.rmtree(self.images, ignore_errors=True)
        write_atomically(self.path / FINISHED, json.dumps(summary, indent=1) + "\n")

    def close(self) -> None:
        """Give the folder up."""
        self._held.close()


def steps_newest_first(folder: Path) -> list[Path]:
    """What is named `step_N` in a folder."""
    steps = [path for path in folder.glob("step_*") if path.name.removeprefix("step_").isdigit()]
    return sorted(steps, key=lambda path: int(path.name.removeprefix("step_")), reverse=True)


def _step_of(line: str) -> int | None:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return None  # the last line of a killed run may be cut

"""Where numbers go: a JSON line, TensorBoard events and a console line for each step."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from megatron_eureka.files import naming_full_disk
from megatron_eureka.log import logger
from megatron_eureka.runs.metrics import check_names

LINE = 120  # columns
FEW_STEPS = 100  # of a run that says all of them anywhere
SECONDS_BETWEEN_LINES = 5.0  # off a terminal, where nobody watches steps of a tenth of a second


class MetricsWriter:
    """Writes steps to `metrics.jsonl` and TensorBoard; one writer a run, on rank 0."""

    def __init__(self, folder: Path, num_steps: int, first_step: int, tensorboard: bool, wandb_project: str = ""):
        self.file = open(folder / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115 (open for the whole run)
        self.num_steps, self.first_step, self.start = num_steps, first_step, time.monotonic()
        self.next_line = 0.0
        self.events = self.wandb = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.events = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)
        if wandb_project:
            import wandb

            self.wandb = wandb.init(
                project=wandb_project, name=folder.name, dir=str(folder), resume="allow", id=folder.name
            )

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Record a step's numbers, flushed to the operating system, so that a killed run keeps what it logged.

        Raises:
            ValueError: the table of metrics has no such name.
            DiskFull: there is no room.
        """
        check_names(metrics)
        with naming_full_disk(Path(self.file.name)):
            self.file.write(json.dumps({"step": step, **metrics}) + "\n")
            self.file.flush()
        if self.events is not None:
            for name, value in metrics.items():
                self.events.add_scalar(name, value, step)
        if self.wandb is not None:
            self.wandb.log(metrics, step=step)

    def console(self, step: int, parts: dict[str, str]) -> None:
        """One line for people, with the time left."""
        done = step - self.first_step
        left = (time.monotonic() - self.start) / max(1, done) * (self.num_steps - step)
        text = " | ".join(f"{name} {value}" for name, value in parts.items())
        head, tail = f"step {step}/{self.num_steps} | ", f" | left {_duration(left)}"
        room = LINE - len(head) - len(tail)
        line = head + (text if len(text) <= room else f"{text[: room - 3]}...") + tail
        if self._is_time(step):
            logger.info("%s", line)

    def _is_time(self, step: int) -> bool:
        """Every line on a terminal; in a file, of many steps one every few seconds, the first and the last always."""
        now = time.monotonic()
        if self.num_steps <= FEW_STEPS:
            return True
        if not sys.stderr.isatty() and step not in (self.first_step + 1, self.num_steps) and now < self.next_line:
            return False
        self.next_line = now + SECONDS_BETWEEN_LINES
        return True

    def close(self) -> None:
        """Close files and event writers."""
        self.file.close()
        if self.events is not None:
            self.events.close()
        if self.wandb is not None:
            self.wandb.finish()


def read_metrics(run_folder: Path) -> list[dict]:
    """The lines of a run's metrics.jsonl, in order."""
    return [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text("utf-8").splitlines()]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"

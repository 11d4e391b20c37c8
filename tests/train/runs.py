"""Run the command line as a user does, on a small job that trains for real within seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]

# A random model never answers right, so the tests reward what its responses do have: something to learn from.
REWARD = '''
def vowels(prompts, responses, labels):
    """Share of vowels: differs between responses, needs no skill."""
    return {"vowels": [sum(c in "aeiou" for c in r) / max(1, len(r)) for r in responses]}
'''


@dataclass(frozen=True)
class Job:
    """A folder with data, a tiny model and a reward; runs go to `runs/` in it."""

    folder: Path

    def options(self, name: str, **changes: object) -> list[str]:
        """Overrides of configs/digits/grpo.yaml for a few fast steps."""
        values = {
            "model.path": self.folder / "model",
            "data.train": f"[{self.folder / 'data' / 'train.jsonl'}]",
            "evaluation.data": f"[{self.folder / 'data' / 'heldout.jsonl'}]",
            "evaluation.benchmarks": f"[jsonl={self.folder / 'data' / 'heldout.jsonl'}]",
            "evaluation.prompt": "plain",  # the system prompt is longer than the demo's prompts may be
            "evaluation.max_prompts": 8,
            "evaluation.every": 0,
            "reward.functions": f"[{self.folder / 'reward.py'}:vowels]",
            "algorithm.filter.enabled": "false",
            "algorithm.kl.coef": 0.1,  # a resumed run must find its reference again: the model that it started from
            "rollout.prompts_per_step": 4,
            "rollout.samples_per_prompt": 4,
            "train.samples_per_update": 8,
            "train.steps": 4,
            "optimizer.lr": 1e-3,
            "checkpoint.every": 2,
            "checkpoint.export": "false",
            "logging.root": self.folder / "runs",
            "logging.name": name,
            "launch.timeout_s": 60,
            **{key.replace("__", "."): value for key, value in changes.items()},
        }
        return [f"{key}={value}" for key, value in values.items()]

    def sft_options(self, name: str, **changes: object) -> list[str]:
        """Overrides of configs/digits/sft.yaml for a few fast steps."""
        values = {
            "model.path": self.folder / "model",
            "data.train": f"[{self.folder / 'data' / 'sft.jsonl'}]",
            "train.samples_per_update": 8,
            "train.steps": 4,
            "checkpoint.export": "false",
            "logging.root": self.folder / "runs",
            "logging.name": name,
            "launch.timeout_s": 60,
            **{key.replace("__", "."): value for key, value in changes.items()},
        }
        return [f"{key}={value}" for key, value in values.items()]

    def run_folder(self, name: str) -> Path:
        return self.folder / "runs" / name

    def metrics(self, name: str) -> list[dict]:
        lines = (self.run_folder(name) / "metrics.jsonl").read_text("utf-8").splitlines()
        return [json.loads(line) for line in lines]


def start(
    command: str, overrides: list[str], fault: str | None = None, configs: Sequence[str] = (), **more: object
) -> subprocess.Popen:
    """Start `megatron-eureka COMMAND CONFIGS OVERRIDES`, with a fault in it if one is asked for.

    Args:
        configs: files in `configs/`; the demo's by default.
    """
    names = configs or ["digits/sft.yaml" if command == "sft" else "digits/grpo.yaml"]
    files = [str(ROOT / "configs" / name) for name in names]
    module = "tests.train.faulty" if fault else "megatron_eureka"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FAULT": fault or ""}
    arguments = [sys.executable, "-m", module, command, *files, *overrides]
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment, **more
    )


def run(
    command: str, overrides: list[str], fault: str | None = None, timeout: float = 180, configs: Sequence[str] = ()
) -> subprocess.CompletedProcess:
    """`start`, wait, and hold that nothing it started is left."""
    process = start(command, overrides, fault, configs)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        end(process)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def end(process: subprocess.Popen) -> None:
    """Kill what is left of a job that a test started."""
    if process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        process.wait(timeout=10)


def leftovers(marker: str) -> list[psutil.Process]:
    """Living processes whose command line names `marker` (a test's own folder)."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if process.pid != os.getpid() and any(marker in part for part in process.info["cmdline"] or []):
            found.append(process)
    return found


# Times and what follows from them differ between any two runs.
TIMED = ("timing_s/", "perf/")


def comparable(metrics: list[dict]) -> dict[tuple[int, str], float]:
    """What two runs of the same steps must agree on, by step and name."""
    return {
        (line["step"], name): value
        for line in metrics
        for name, value in line.items()
        if name != "step" and not name.startswith(TIMED)
    }

"""Pictures of a run, made from what it wrote to disk."""

from __future__ import annotations

import json
from pathlib import Path


def read_metrics(run_folder: Path) -> list[dict]:
    """The lines of metrics.jsonl, in order."""
    return [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text("utf-8").splitlines()]


def plot_rewards(run_folder: Path) -> Path:
    """Draw rewards of the rollouts and held-out accuracy over the steps into `reward.png`.

    Raises:
        ValueError: the run has logged no rewards.
    """
    from matplotlib.figure import Figure  # not pyplot: it keeps figures and wants a display

    lines = read_metrics(run_folder)
    series = {
        "total reward of rollouts": "reward/total/mean",
        "accuracy of rollouts": "reward/accuracy/mean",
        "held-out accuracy, greedy": "evaluation/accuracy",
    }
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    drawn = 0
    for label, name in series.items():
        points = [(line["step"], line[name]) for line in lines if name in line]
        drawn += len(points)
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker="o" if len(points) < 10 else None)
    if not drawn:
        raise ValueError(f"{run_folder / 'metrics.jsonl'} holds no rewards: there is nothing to draw.")
    axes.set_xlabel("step")
    axes.set_ylabel("reward, accuracy (mean)")
    axes.set_title(run_folder.name)
    axes.grid(alpha=0.3)
    axes.legend()
    target = run_folder / "reward.png"
    figure.savefig(target, dpi=120)
    return target

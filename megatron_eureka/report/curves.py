"""Plots of a run, made from what it wrote to disk."""

from __future__ import annotations

from pathlib import Path

from megatron_eureka.evaluate.heldout import Evaluation
from megatron_eureka.runs.metrics_writer import read_metrics


def heldout_bands(run_folder: Path) -> list[tuple[int, float, float]]:
    """(step, lower and upper end of the 95 % interval) of the held-out accuracy, from the items that were answered."""
    files = {int(file.stem.removeprefix("step_")): file for file in (run_folder / "evaluation").glob("step_*.jsonl")}
    return [(step, *Evaluation.read(files[step]).interval("accuracy")) for step in sorted(files)]


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
    bands = heldout_bands(run_folder)
    if bands:
        steps, lows, highs = zip(*bands, strict=True)
        axes.fill_between(steps, lows, highs, color="C2", alpha=0.15, linewidth=0, label="95 % interval of it")
    if not drawn:
        raise ValueError(f"{run_folder / 'metrics.jsonl'} holds no rewards: there is nothing to draw.")
    axes.set_xlabel("step")
    axes.set_ylabel("mean reward of a response, share of right answers")
    axes.set_title(run_folder.name)
    axes.grid(alpha=0.3)
    axes.legend()
    target = run_folder / "reward.png"
    figure.savefig(target, dpi=120)
    return target

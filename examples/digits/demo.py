"""The whole job in one command: data, a tiny model, a cold start, GRPO on two ranks, and a table of what it did.

    python examples/digits/demo.py --layout tp2 --seed 0 --recipe dapo

Each call writes a new folder under runs/, to which runs/latest points, with data, the cold start (`sft`) and the RL run
(`grpo`, or the recipe's name).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from examples.digits.data import corpus, write_data  # noqa: E402
from examples.digits.model import make_model  # noqa: E402
from megatron_eureka.evaluate.heldout import Evaluation  # noqa: E402
from megatron_eureka.evaluate.intervals import paired_difference  # noqa: E402
from megatron_eureka.report.curves import plot_rewards  # noqa: E402
from megatron_eureka.runs.metrics_writer import read_metrics  # noqa: E402

DIGITS = ROOT / "configs" / "digits"
RECIPES = sorted(path.stem for path in (ROOT / "configs" / "recipe").glob("*.yaml"))
LAYOUTS = {
    "tp2": ["parallel.tp=2", "parallel.pp=1"],
    "pp2": ["parallel.tp=1", "parallel.pp=2"],
    "dp2": ["parallel.tp=1", "parallel.pp=1"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layout", choices=LAYOUTS, default="tp2", help="how the two trainer ranks share GRPO's work")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipe", choices=RECIPES, help="of configs/recipe; default: configs/digits/grpo.yaml")
    parser.add_argument("--folder", type=Path, help="where to write; default: a new folder under runs/")
    parser.add_argument("overrides", nargs="*", help="options of the RL run, such as train.steps=10")
    options = parser.parse_args()
    started = time.monotonic()
    folder = options.folder or Path("runs") / time.strftime(f"demo-{options.layout}-%Y%m%d-%H%M%S")
    folder.mkdir(parents=True, exist_ok=True)
    if options.folder is None:
        point_to(folder)
    run = run_demo(folder, options.layout, options.seed, options.overrides, options.recipe)
    print(summary(run, time.monotonic() - started))


def point_to(folder: Path) -> None:
    """Make `latest` beside the folder a link to it; a `latest` that is no link stays."""
    latest = folder.with_name("latest")
    if latest.is_symlink():
        latest.unlink()
    if not latest.exists():
        latest.symlink_to(folder.name)


def run_demo(
    folder: Path, layout: str, seed: int, overrides: list[str] | None = None, recipe: str | None = None
) -> Path:
    """Make data and model, train, and return the RL run's folder.

    Raises:
        SystemExit: a stage failed; it has said why.
    """
    cold_start(folder, seed)
    return run_rl(folder, layout, seed, overrides, recipe)


def cold_start(folder: Path, seed: int) -> None:
    """Data, a random model, and its fine-tuning on demonstrations."""
    data = write_data(folder / "data", seed)
    model = make_model(folder / "model", num_layers=4, seed=seed, corpus=corpus())
    changes = [f"data.train=[{data}/sft.jsonl]", f"model.path={model}", "logging.name=sft"]
    run_stage("sft", [DIGITS / "sft.yaml"], [*changes, f"logging.root={folder}", f"train.seed={seed}"])


def run_rl(folder: Path, layout: str, seed: int, overrides: list[str] | None = None, recipe: str | None = None) -> Path:
    """The RL run on what `cold_start` left in `folder`; returns its folder."""
    files = [ROOT / "configs" / "recipe" / f"{recipe}.yaml", DIGITS / "rl.yaml"] if recipe else [DIGITS / "grpo.yaml"]
    name, data = recipe or "grpo", folder / "data"
    changes = [f"data.train=[{data}/train.jsonl]", f"evaluation.data=[{data}/heldout.jsonl]"]
    changes += [f"model.path={folder}/sft/export", f"logging.name={name}"]
    changes += [f"logging.root={folder}", f"train.seed={seed}", *LAYOUTS[layout], *(overrides or [])]
    run_stage(name, files, changes)
    return folder / name


def run_stage(name: str, files: list[Path], overrides: list[str]) -> None:
    """Run "sft", or RL under any other name; SystemExit when it fails, which it explains."""
    print(f"\n== {name} ==", flush=True)
    command = [sys.executable, "-m", "megatron_eureka", "sft" if name == "sft" else "train", *map(str, files)]
    code = subprocess.run([*command, *overrides]).returncode
    if code:
        raise SystemExit(code)


def summary(run: Path, seconds: float) -> str:
    """The closing table."""
    lines = read_metrics(run)
    steps = [line for line in lines if "reward/total/mean" in line]
    evaluations = sorted((run / "evaluation").glob("step_*.jsonl"), key=lambda path: int(path.stem[5:]))
    before, after = Evaluation.read(evaluations[0]), Evaluation.read(evaluations[-1])
    rows = [("held-out, greedy", "before RL", "after RL")]
    for name in ("accuracy", "format"):
        rows.append((f"{name} [95 % interval]", _rate(before, name), _rate(after, name)))
    gain, low, high = paired_difference([i.accuracy for i in before.items], [i.accuracy for i in after.items])
    tokens = sum(line["perf/tokens_per_s"] * line["timing_s/step"] for line in steps)
    rate = tokens / sum(line["timing_s/step"] for line in steps)
    plot = plot_rewards(run)
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    table = "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return (
        f"\n{table}\n"
        f"gain in accuracy: {100 * gain:+.1f} points, 95 % interval of the paired difference "
        f"[{100 * low:+.1f}, {100 * high:+.1f}]\n"
        f"mean reward of rollouts: first step {steps[0]['reward/total/mean']:.3f}, "
        f"last step {steps[-1]['reward/total/mean']:.3f}\n"
        f"{rate:.0f} tokens/s over the RL steps; {seconds / 60:.1f} minutes in all\n"
        f"run folder: {run}\nreward curve: {plot}\n"
        f"next: megatron-eureka eval examples/benchmarks/eval.yaml --model {run}/export"
    )


def _rate(evaluation: Evaluation, name: str) -> str:
    low, high = evaluation.interval(name)
    right = round(sum(getattr(item, name) for item in evaluation.items))
    return f"{evaluation.rate(name):.3f} ({right}/{len(evaluation.items)}) [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()

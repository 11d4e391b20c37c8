"""What each recipe does on the demo's task: whole runs from one cold start, into one JSON.

    python tools/bench/recipes.py --seed 0 --out docs/measurements/recipes.json

Every run starts from the same fine-tuned model and draws prompts in the same order. Of each, the held-out accuracy
before and after with its interval, and the means over its steps of the metrics that show what the recipe does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from examples.digits.demo import LAYOUTS, RECIPES, cold_start, run_rl  # noqa: E402
from megatron_eureka.runs.metrics_writer import read_metrics  # noqa: E402
from tools.bench.demo_seeds import compare, first_and_last  # noqa: E402

# Beside the recipes: ADORA on the one that it was made for, and the demo's own options.
VARIANTS = {
    **{name: (name, []) for name in RECIPES},
    "mm_eureka_7b_fixed + adora": (
        "mm_eureka_7b_fixed",
        ["algorithm.adora.enabled=true", "logging.name=mm_eureka_7b_fixed_adora"],
    ),
    "configs/digits/grpo.yaml": (None, []),
}
SHOWN = (
    *("filter/kept", "filter/dropped_easy", "filter/dropped_hard", "filter/stale", "filter/staleness/mean"),
    *(
        "rollout/prompts",
        "rollout/rounds",
        "advantage/zero_fraction",
        "advantage/adora/weighted_down",
        "reward/overlong/mean",
    ),
    *("reward/kl_penalty/mean", "actor/kl_loss", "actor/pg_clipfrac", "actor/entropy", "actor/grad_norm"),
    *("rollout_corr/probs_diff_mean", "rollout_corr/is_truncated", "response_length/mean"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layout", choices=LAYOUTS, default="tp2")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--folder", type=Path, default=Path("runs") / time.strftime("recipes-%Y%m%d-%H%M%S"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=True)
    cold_start(options.folder, options.seed)
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit.stdout.strip(),
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "command": f"tools/bench/recipes.py --layout {options.layout} --seed {options.seed}",
        "recipes": {name: one_recipe(options.folder, options.layout, options.seed, name) for name in options.only},
    }
    text = json.dumps(result, indent=1) + "\n"
    if options.out:
        options.out.write_text(text, "utf-8")
    print(text)


def one_recipe(folder: Path, layout: str, seed: int, variant: str) -> dict:
    """A whole run: what it learned and the means of its metrics."""
    recipe, overrides = VARIANTS[variant]
    started = time.monotonic()
    run = run_rl(folder, layout, seed, ["checkpoint.every=0", "checkpoint.export=false", *overrides], recipe)
    run = folder / next((text.partition("=")[2] for text in overrides if text.startswith("logging.name=")), run.name)
    steps = [line for line in read_metrics(run) if "reward/total/mean" in line]
    means = {name: statistics.fmean(line[name] for line in steps) for name in SHOWN if name in steps[0]}
    return {
        "minutes": round((time.monotonic() - started) / 60, 1),
        "steps": len(steps),
        "heldout": compare(*first_and_last(run)),
        "mean_over_steps": means,
    }


if __name__ == "__main__":
    main()

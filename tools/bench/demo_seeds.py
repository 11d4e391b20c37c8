"""Does the demo learn, and for the right reason? Several seeds, and two controls a seed, into one JSON.

    python tools/bench/demo_seeds.py --seeds 0 1 2 --out docs/measurements/demo_seeds.json

For each seed: the demo as it is; the same RL run with rewards permuted over the batch (it must not learn); and the
trained model on held-out questions whose images were exchanged (it must fall towards chance).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from examples.digits.demo import LAYOUTS, run_demo, run_rl  # noqa: E402
from megatron_eureka.config.load import load_config  # noqa: E402
from megatron_eureka.evaluate.heldout import Evaluation, evaluate  # noqa: E402
from megatron_eureka.evaluate.intervals import paired_difference  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--layout", choices=LAYOUTS, default="tp2")
    parser.add_argument("--folder", type=Path, default=Path("runs") / time.strftime("seeds-%Y%m%d-%H%M%S"))
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--evaluate", nargs=3, metavar=("MODEL", "DATA", "OUT"), help="answer DATA with MODEL (internal)"
    )
    options = parser.parse_args()
    if options.evaluate:
        evaluate_folder(*options.evaluate)
        return
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=True)
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit.stdout.strip(),
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "layout": options.layout,
        "command": f"tools/bench/demo_seeds.py --layout {options.layout} --seeds {' '.join(map(str, options.seeds))}",
        "seeds": {seed: one_seed(options.folder / f"seed{seed}", options.layout, seed) for seed in options.seeds},
    }
    text = json.dumps(result, indent=1) + "\n"
    if options.out:
        options.out.write_text(text, "utf-8")
    print(text)


def one_seed(folder: Path, layout: str, seed: int) -> dict:
    """The demo and its controls with one seed."""
    started = time.monotonic()
    run = run_demo(folder, layout, seed)
    minutes = (time.monotonic() - started) / 60
    data = folder / "data"
    run_rl(
        *(folder, layout, seed),
        ["logging.name=shuffled", "reward.shuffle=true", "evaluation.every=0", "checkpoint.export=false"],
    )
    swapped = folder / "swapped.jsonl"
    command = [sys.executable, __file__, "--evaluate", f"{run}/export", f"{data}/heldout_swapped.jsonl", str(swapped)]
    subprocess.run(command, check=True)
    before, after = first_and_last(run)
    control = first_and_last(folder / "shuffled")
    return {
        "minutes": round(minutes, 1),
        "trained": compare(before, after),
        "shuffled_rewards": compare(*control),
        "swapped_pictures": {"accuracy": Evaluation.read(swapped).rate("accuracy")},
    }


def first_and_last(run: Path) -> tuple[Evaluation, Evaluation]:
    """Held-out answers before the first and after the last step."""
    files = sorted((run / "evaluation").glob("step_*.jsonl"), key=lambda path: int(path.stem.removeprefix("step_")))
    return Evaluation.read(files[0]), Evaluation.read(files[-1])


def compare(before: Evaluation, after: Evaluation) -> dict:
    """Rates with 95 % intervals, and the paired difference."""
    gain, low, high = paired_difference([i.accuracy for i in before.items], [i.accuracy for i in after.items])
    return {
        "prompts": len(after.items),
        "accuracy_before": before.rate("accuracy"),
        "accuracy_after": after.rate("accuracy"),
        "accuracy_after_interval": after.interval("accuracy"),
        "format_after": after.rate("format"),
        "gain": gain,
        "gain_interval": [low, high],
    }


def evaluate_folder(model: str, data: str, out: str) -> None:
    """Answer the prompts of a file with the model of a folder, greedily, on one rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(rank)
    from megatron_eureka.engines.colocated import ColocatedEngine, EngineOptions
    from megatron_eureka.families.source import ModelSource
    from megatron_eureka.parallel import groups
    from megatron_eureka.rewards.scorer import Scorer
    from megatron_eureka.train.setup import load_data, start_job

    changes = [f"model.path={model}", f"data.train=[{data}]", f"evaluation.data=[{data}]", "parallel.tp=1"]
    config = load_config(ROOT / "configs" / "digits" / "grpo.yaml", changes)
    source = ModelSource.open(config.model.path)
    start_job(config)
    with Scorer(config.reward, config.rollout.max_response_tokens) as scorer:
        loaded = load_data(config, source, scorer.check_label)
        engine = ColocatedEngine(EngineOptions.from_config(config, source), loaded.store)
        evaluate(config, engine, scorer, loaded.heldout).write(Path(out))
    groups.stop()
    os._exit(0)  # the engine's threads would keep the process


if __name__ == "__main__":
    main()

"""The demo's stages and its closing table, without running any of it."""

import json
import re
import sys
from types import SimpleNamespace

import pytest

from examples.digits import demo
from megatron_eureka.config.load import load_config
from megatron_eureka.evaluate.heldout import Evaluation, Item


@pytest.fixture
def commands(monkeypatch):
    """What the stages would run, each ending with `code`; data and model are not made either."""
    stub = SimpleNamespace(calls=[], code=0)

    def run(command):
        stub.calls.append(command)
        return SimpleNamespace(returncode=stub.code)

    monkeypatch.setattr(demo.subprocess, "run", run)
    monkeypatch.setattr(demo, "write_data", lambda folder, seed: folder)
    monkeypatch.setattr(demo, "make_model", lambda folder, **options: folder)
    return stub


@pytest.mark.parametrize(("layout", "tp", "pp"), [("tp2", 2, 1), ("pp2", 1, 2), ("dp2", 1, 1)])
def test_the_stages_get_the_layout_the_seed_and_each_others_folders(commands, tmp_path, layout, tp, pp):
    run = demo.run_demo(tmp_path, layout, seed=3, overrides=["train.steps=7"])
    assert run == tmp_path / "grpo"
    heads = [command[:4] for command in commands.calls]
    assert heads == [[sys.executable, "-m", "megatron_eureka", name] for name in ("sft", "train")]
    sft, grpo = (load_config(command[4], command[5:]) for command in commands.calls)  # as the stage itself reads it
    data = tmp_path / "data"
    assert (sft.model.path, sft.data.train) == (str(tmp_path / "model"), [f"{data}/sft.jsonl"])
    assert (sft.parallel.tp, sft.parallel.pp) == (1, 1)
    assert (sft.logging.root, sft.logging.name, sft.train.seed) == (str(tmp_path), "sft", 3)
    assert grpo.model.path == str(tmp_path / "sft" / "export")
    assert (grpo.data.train, grpo.evaluation.data) == ([f"{data}/train.jsonl"], [f"{data}/heldout.jsonl"])
    assert (grpo.parallel.tp, grpo.parallel.pp, grpo.launch.ranks) == (tp, pp, 2)
    assert (grpo.logging.root, grpo.logging.name, grpo.train.seed) == (str(tmp_path), "grpo", 3)
    assert grpo.train.steps == 7 != sft.train.steps


@pytest.mark.parametrize("recipe", demo.RECIPES)
def test_a_recipe_runs_on_the_demos_task(commands, tmp_path, recipe):
    assert demo.run_demo(tmp_path, "tp2", seed=0, recipe=recipe) == tmp_path / recipe
    command = commands.calls[1]
    config = load_config(command[4], command[5:])
    alone, task = load_config(command[4]), load_config(demo.DIGITS / "rl.yaml")
    assert config.algorithm == alone.algorithm  # nothing of the recipe is lost
    assert (config.model.path, config.logging.name) == (str(tmp_path / "sft" / "export"), recipe)
    assert (config.optimizer.lr, config.precision.dtype) == (task.optimizer.lr, "fp32")  # nor of the task


def test_options_of_the_command_line_come_last(commands, tmp_path):
    demo.run_demo(tmp_path, "tp2", seed=0, overrides=["parallel.tp=1", "parallel.pp=2"])
    config = load_config(commands.calls[1][4], commands.calls[1][5:])
    assert (config.parallel.tp, config.parallel.pp) == (1, 2)


def test_a_stage_that_fails_ends_the_demo_with_its_code(commands, tmp_path):
    commands.code = 3
    with pytest.raises(SystemExit) as ended:
        demo.run_demo(tmp_path, "tp2", seed=0)
    assert ended.value.code == 3
    assert [command[3] for command in commands.calls] == ["sft"]


def write_run(folder):
    """Ten held-out prompts after steps 0, 20 and 100, and two steps of training."""
    # 2, 9 and 8 right; from the first to the last, 7 get better and 1 worse
    right = {0: {0, 1}, 20: set(range(9)), 100: {0, *range(2, 9)}}
    for step, numbers in right.items():
        items = tuple(Item(f"p{i}", "", "", float(i in numbers), float(step > 0 or i < 5)) for i in range(10))
        Evaluation(items).write(folder / "evaluation" / f"step_{step}.jsonl")
    steps = [  # 100 tokens/s for 1 s and 400 for 3 s: 1300 tokens in 4 s
        {"step": 1, "reward/total/mean": 0.25, "perf/tokens_per_s": 100.0, "timing_s/step": 1.0},
        {"step": 2, "reward/total/mean": 1.125, "perf/tokens_per_s": 400.0, "timing_s/step": 3.0},
    ]
    lines = [{"step": 0, "evaluation/accuracy": 0.2}, *steps, {"step": 100, "evaluation/accuracy": 0.8}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return folder


def test_the_closing_table(tmp_path):
    run = write_run(tmp_path / "grpo")
    lines = [re.sub(" {2,}", " | ", line.strip()) for line in demo.summary(run, seconds=90.0).strip().splitlines()]
    # Wilson's intervals of 2, 8, 5 and 10 of 10: the first two mirror each other, see test_intervals.
    # Differences: seven +1, one -1, two 0: mean 0.6, squares of deviations 7 * 0.16 + 2.56 + 2 * 0.36 = 4.4, variance
    # 4.4 / 9, half width 1.96 * sqrt(4.4 / 90) = 0.434.
    assert lines == [
        "held-out, greedy | before RL | after RL",
        "accuracy [95 % interval] | 0.200 (2/10) [0.057, 0.510] | 0.800 (8/10) [0.490, 0.943]",
        "format [95 % interval] | 0.500 (5/10) [0.237, 0.763] | 1.000 (10/10) [0.722, 1.000]",
        "gain in accuracy: +60.0 points, 95 % interval of the paired difference [+16.7, +103.3]",
        "mean reward of rollouts: first step 0.250, last step 1.125",
        "325 tokens/s over the RL steps; 1.5 minutes in all",
        f"run folder: {run}",
        f"reward curve: {run / 'reward.png'}",
        f"next: megatron-eureka eval examples/benchmarks/eval.yaml --model {run}/export",
    ]
    assert (run / "reward.png").exists()


def test_latest_is_the_newest_demo_and_nothing_of_somebody_else(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        demo.point_to(tmp_path / name)
        assert (tmp_path / "latest").resolve() == tmp_path / name
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").mkdir()
    demo.point_to(tmp_path / "first")
    assert not (tmp_path / "latest").is_symlink()

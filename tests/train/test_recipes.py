"""Every recipe on the demo's task: three steps from a model that answers some of the questions right."""

import json
import math
import statistics

import numpy as np
import pytest

from megatron_eureka.config.load import load_config
from tests.train.runs import ROOT, run

pytestmark = pytest.mark.slow

CONFIGS = ROOT / "configs"
STEPS, PROMPTS, SAMPLES = 3, 8, 8


class Run:
    """What a recipe's run has written: `steps` of metrics, and for each step its groups as they were generated."""

    def __init__(self, taught, name: str, recipe: str, *overrides: str):
        changes = [f"data.train=[{taught.folder}/data/train.jsonl]", f"model.path={taught.folder}/model"]
        changes += [f"logging.root={taught.folder}/runs", f"logging.name={name}"]
        changes += ["evaluation.enabled=false", "checkpoint.every=0"]
        changes += [f"train.steps={STEPS}", f"rollout.prompts_per_step={PROMPTS}", "checkpoint.export=false"]
        changes += [f"train.samples_per_update={PROMPTS * SAMPLES // 2}", "logging.tensorboard=false", *overrides]
        result = run("train", changes, configs=[f"recipe/{recipe}.yaml", "digits/rl.yaml"])
        assert result.returncode == 0, result.stderr
        folder = taught.run_folder(name)
        self.config, self.steps = load_config(folder / "config.yaml"), taught.metrics(name)
        self.groups = [self._groups(folder / "rollouts" / f"step_{step}.jsonl") for step in range(1, STEPS + 1)]

    @staticmethod
    def _groups(file) -> list[list[dict]]:
        records = [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]
        return [records[first : first + SAMPLES] for first in range(0, len(records), SAMPLES)]

    def trained(self) -> list[list[dict]]:
        return [group for groups in self.groups for group in groups if group[0]["advantage"] is not None]


def totals(group: list[dict]) -> list[float]:
    return [record["rewards"]["total"] for record in group]


def accuracy(group: list[dict]) -> float:
    return statistics.fmean(record["rewards"]["accuracy"] for record in group)


def standardised(rewards: list[float]) -> list[float]:
    """GRPO's advantages from the definition."""
    spread = statistics.stdev(rewards)
    return [(reward - statistics.fmean(rewards)) / spread if spread else 0.0 for reward in rewards]


@pytest.fixture(scope="module")
def runs(taught):
    """Runs by name, made when first asked for."""
    made: dict[str, Run] = {}

    def get(recipe: str, name: str = "", *overrides: str) -> Run:
        name = name or recipe
        if name not in made:
            made[name] = Run(taught, name, recipe, *overrides)
        return made[name]

    return get


RECIPES = sorted(path.stem for path in (CONFIGS / "recipe").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_three_steps(runs, recipe):
    made = runs(recipe)
    assert [line["step"] for line in made.steps] == [1, 2, 3]
    for line in made.steps:
        assert all(math.isfinite(value) for value in line.values())
        assert line["actor/grad_norm"] > 0
        assert line["actor/log_ratio_max/first"] == 0.0 or line["filter/staleness/max"] > 0
        assert line["rollout_corr/probs_diff_mean"] < 1e-5 and line["rollout_corr/alarm"] == 0  # fp32 on both sides
    assert made.config.algorithm == load_config(CONFIGS / "recipe" / f"{recipe}.yaml").algorithm


@pytest.mark.parametrize("recipe", RECIPES)
def test_only_groups_within_the_bounds_are_trained_on_and_all_are_counted(runs, recipe):
    made = runs(recipe)
    bounds = made.config.algorithm.filter
    assert all(bounds.lower <= accuracy(group) <= bounds.upper for group in made.trained())
    for line, groups in zip(made.steps, made.groups, strict=True):
        fresh = [group for group in groups if group[0]["policy_version"] == line["step"] - 1]
        assert line["filter/dropped_easy"] == sum(accuracy(group) > bounds.upper for group in fresh)
        assert line["filter/dropped_hard"] == sum(accuracy(group) < bounds.lower for group in fresh)
        assert line["filter/kept"] == len(fresh) - line["filter/dropped_easy"] - line["filter/dropped_hard"]
        assert len([group for group in groups if group[0]["advantage"] is not None]) == PROMPTS  # filled to the brim
    assert sum(line["filter/dropped_easy"] + line["filter/dropped_hard"] for line in made.steps) > 0


@pytest.mark.parametrize("recipe", ["mm_eureka_7b", "mm_eureka_7b_fixed", "dapo", "gspo"])
def test_advantages_are_grpos(runs, recipe):
    for group in runs(recipe).trained():
        advantages = [record["advantage"] for record in group]
        assert advantages == pytest.approx(standardised(totals(group)), abs=1e-5)  # float32


def test_rloo_is_whitened_and_penalised(runs):
    made = runs("rloo")
    first, *later = made.steps
    assert first["reward/kl_penalty/mean"] == 0.0  # the policy is the reference still
    assert all(line["reward/kl_penalty/mean"] != 0 for line in later)
    trained = [group for group in made.groups[0] if group[0]["advantage"] is not None]
    raw, lengths, got = [], [], []
    for group in trained:
        others = [(sum(totals(group)) - total) / (SAMPLES - 1) for total in totals(group)]
        raw += [total - mean for total, mean in zip(totals(group), others, strict=True)]
        lengths += [record["num_tokens"] for record in group]
        got += [record["advantage"] for record in group]
    tokens = np.repeat(raw, lengths)
    assert got == pytest.approx(((np.array(raw) - tokens.mean()) / tokens.std()).tolist(), abs=1e-5)  # float32


def test_dapo_punishes_length_and_clips_higher(runs):
    made = runs("dapo")
    assert made.config.algorithm.clip_high == 0.28
    scores = [record["rewards"]["overlong"] for groups in made.groups for group in groups for record in group]
    assert all(-1.0 <= score <= 0.0 for score in scores)
    for line, groups in zip(made.steps, made.groups, strict=True):
        fresh = [record for group in groups for record in group if record["policy_version"] == line["step"] - 1]
        cut = [record for record in fresh if record["finish_reason"] == "length"]
        assert all(record["rewards"]["overlong"] == -1.0 for record in cut)


def test_mm_eureka_trains_without_correction_and_the_mended_one_with(runs):
    theirs, mended = runs("mm_eureka_7b"), runs("mm_eureka_7b_fixed")
    assert all(line["rollout_corr/is_max"] == 1.0 for line in theirs.steps)
    assert any(line["rollout_corr/is_max"] > 1.0 for line in mended.steps)  # by the last digits of float32


def test_adora_weighs_groups_down_and_says_so(runs):
    """From the same start: the first step's groups are those of the run without it, their advantages 1 or 0.1 times."""
    plain = runs("mm_eureka_7b_fixed")
    made = runs("mm_eureka_7b_fixed", "adora", "algorithm.adora.enabled=true")
    factors = []
    for group in made.trained():
        expected, got = standardised(totals(group)), [record["advantage"] for record in group]
        (factor,) = (f for f in (1.0, 0.1) if got == pytest.approx([f * e for e in expected], abs=1e-5))
        factors.append(factor)
    shares = [line["advantage/adora/weighted_down"] for line in made.steps]
    assert sum(factor == 0.1 for factor in factors) == pytest.approx(sum(shares) * PROMPTS)
    assert 0.1 in factors
    assert made.steps[0]["actor/grad_norm"] < plain.steps[0]["actor/grad_norm"]

"""docs/algorithms.md: its commands run in their order, and it names every algorithm that there is."""

import re

import pytest

from megatron_eureka.config.load import option_fields
from megatron_eureka.rl.advantages import ESTIMATORS
from megatron_eureka.rl.kl import KL_ESTIMATORS
from megatron_eureka.rl.losses import LOSSES
from tests.examples.pages import ROOT, clone, run_commands

PAGE = (ROOT / "docs" / "algorithms.md").read_text("utf-8")


@pytest.mark.slow
def test_the_commands_run_one_after_another(tmp_path):
    output = run_commands("algorithms.md", clone(tmp_path, "configs", "examples"))
    assert len(output) == 7
    assert "clip_high: 0.28" in output[0] and "32 ranks" in output[1]
    assert "step 1/1 | reward" in output[-1]
    assert (tmp_path / "runs" / "dapo" / "export").is_dir()


def test_everything_is_named():
    for name in (*ESTIMATORS, *LOSSES, "sample_mean", "token_mean", "dr_grpo", *KL_ESTIMATORS):
        assert re.search(rf"\b{name}\b", PAGE), name
    for recipe in (ROOT / "configs" / "recipe").glob("*.yaml"):
        assert f"[{recipe.stem}](../configs/recipe/{recipe.name})" in PAGE


def test_options_that_it_names_exist():
    named = set(re.findall(r"`((?:algorithm|reward|rollout|train)\.[a-z_.]+)", PAGE))
    sections = {name.rpartition(".")[0] for name in option_fields()}
    assert len(named) > 15 and named <= option_fields().keys() | sections

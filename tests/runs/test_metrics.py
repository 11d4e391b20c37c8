"""The table of metrics: what it knows, what it refuses, how updates are reduced by it, and the page made of it."""

import ast
import re
from pathlib import Path

import pytest

from megatron_eureka.runs.metric_table import METRICS, RANKS
from megatron_eureka.runs.metrics import (
    REDUCED,
    check_names,
    find,
    over_updates,
    reduced,
    reduction_of,
    render_metrics,
)
from megatron_eureka.runs.metrics_writer import MetricsWriter, read_metrics

ROOT = Path(__file__).parents[2]


def test_the_page_is_fresh():
    written = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    assert written == render_metrics(), "run: python -m megatron_eureka.runs.metrics > docs/metrics.md"


def test_an_unknown_name_is_not_written(tmp_path):
    writer = MetricsWriter(tmp_path, 2, 0, tensorboard=False)
    writer.write(1, {"actor/loss": 0.5, "reward/short_thinking/mean": 0.2})
    with pytest.raises(ValueError, match="'actor/los' is no metric.*metric_table.py"):
        writer.write(2, {"actor/loss": 0.5, "actor/los": 0.5})
    writer.close()
    assert read_metrics(tmp_path) == [{"step": 1, "actor/loss": 0.5, "reward/short_thinking/mean": 0.2}]


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("reward/total/mean", "reward/<component>/mean"),
        ("reward/a b/c/mean", "reward/<component>/mean"),  # a user's function may call it so
        ("reward/group_std/mean", "reward/group_std/mean"),  # a name of its own comes before a family
        ("reward/failed/http://127.0.0.1:8009/score", "reward/failed/<source>"),
        ("evaluation/mathvista/pass_at_8", "evaluation/<benchmark>/pass_at_<k>"),
        ("evaluation/accuracy", "evaluation/accuracy"),
        ("actor/log_ratio_max/first", "actor/log_ratio_max/first"),
    ],
)
def test_a_name_has_one_line(name, family):
    assert find(name).name == family


@pytest.mark.parametrize(
    "name", ["loss", "reward/total", "rewards/total/mean", "evaluation/accuracies", "timing_s/", ""]
)
def test_near_names_are_unknown(name):
    with pytest.raises(ValueError, match=re.escape(f"{name!r} is no metric")):
        find(name)


def test_the_table_is_whole():
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert metric.unit and metric.meaning and metric.over_ranks in RANKS, metric
        assert "|" not in metric.unit + metric.meaning, f"{metric}: it would cut the page's table"


def test_all_names_in_the_sources_are_known():
    """String literals such as "filter/kept", whoever writes them; names that are put together are met by whole runs."""
    groups = {metric.name.partition("/")[0] for metric in METRICS}
    name = re.compile(rf"({'|'.join(groups)})(/[a-z0-9_]+)+")
    literals = {
        node.value
        for file in (ROOT / "megatron_eureka").rglob("*.py")
        if file.name != "metric_table.py"
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and name.fullmatch(node.value)
    }
    assert len(literals) > 40
    check_names(literals)


def test_what_ranks_and_rows_say_is_reduced_by_the_table():
    assert set(REDUCED) < set(RANKS)
    assert reduction_of("reward/timeouts") == "sum" and reduction_of("rollout_corr/is_max") == "max"
    assert reduction_of("actor/ppo_kl") == "token mean"
    assert reduction_of("rollout_corr/rejected_samples") == "sample mean"
    assert reduction_of("tokens") == "sum"  # what metrics are made of
    for name in ("rollout_corr/ess", "actor/lr", "timing_s/update"):
        with pytest.raises(AssertionError, match=f"{name} is not reduced over ranks"):
            reduction_of(name)
    assert reduced("sft") == ("sft/loss", "sft/entropy")  # norm and learning rate are the same on all ranks
    assert "actor/log_ratio_max" in reduced("actor") and "actor/log_ratio_max/first" not in reduced("actor")


def test_updates_give_means_and_the_largest_of_maxima():
    updates = [{"actor/loss": 1.0, "actor/log_ratio_max": 0.0}, {"actor/loss": 2.0, "actor/log_ratio_max": 0.5}]
    assert over_updates(updates) == {
        "actor/loss": 1.5,
        "actor/log_ratio_max": 0.5,
        "actor/log_ratio_max/first": 0.0,
    }
    with pytest.raises(AssertionError, match="filter/kept is a number of a step"):
        over_updates([{"filter/kept": 1.0}])

"""Held-out answers: how they are asked for, what counts as right, and their file."""

import json
from dataclasses import replace

import pytest

from megatron_eureka.config.schema import Config
from megatron_eureka.engines.protocol import SamplingOptions
from megatron_eureka.evaluate.heldout import Evaluation, Item, evaluate
from tests.ranks import run_ranks
from tests.rollout.fakes import CountingScorer, Images, RecordingEngine, prompt

# Greedy answers are "0": right where the label is above 0.
PROMPTS = [prompt(0, "1"), prompt(1, "0"), prompt(2, "1"), prompt(3, "1"), prompt(4, "0")]


def _evaluate(rank, world, options):
    engine = RecordingEngine(rank, world, rejected={"p2"}, images=Images(broken={"torn"}))
    config = Config.model_validate({"rollout": {"temperature": 0.7, "top_k": 5, "max_response_tokens": 9}, **options})
    prompts = [*PROMPTS, prompt(5, "1", ["torn"])] if options else PROMPTS
    result = evaluate(config, engine, CountingScorer(), prompts)
    return result, engine.sampling, [len(request.seeds) for call in engine.calls for request in call]


@pytest.mark.parametrize("world", [1, 2])
def test_every_prompt_is_answered_once_and_greedily(world):
    ranks = run_ranks(world, _evaluate, {})
    for rank, (result, sampling, num_seeds) in enumerate(ranks):
        texts = [item.response for item in ranks[0][0].items] if rank == 0 else [""] * 5  # for the rank that writes
        assert [item.response for item in result.items] == texts
        assert [replace(item, response="") for item in result.items] == [
            replace(item, response="") for item in ranks[0][0].items
        ]
        assert sampling == [SamplingOptions(temperature=0.0, max_tokens=9)]
        assert set(num_seeds) == {1}
    assert [item.id for item in ranks[0][0].items] == ["p0", "p1", "p2", "p3", "p4"]
    assert sum(len(num_seeds) for _, _, num_seeds in ranks) == 5


def test_refused_prompts_count_as_wrong():
    ((result, _, _),) = run_ranks(1, _evaluate, {})
    assert [item.accuracy for item in result.items] == [1.0, 0.0, 0.0, 1.0, 0.0]
    assert [item.format for item in result.items] == [1.0, 1.0, 0.0, 1.0, 1.0]
    assert result.items[2] == Item("p2", "", "1", 0.0, 0.0)
    assert result.num_rejected == 1
    assert result.metrics() == {"evaluation/accuracy": 0.4, "evaluation/format": 0.8, "evaluation/refused": 1.0}


def test_images_that_break_late_count_as_wrong_too():
    ((result, _, _),) = run_ranks(1, _evaluate, {"data": {"on_error": "skip"}})
    assert result.items[5] == Item("p5", "", "1", 0.0, 0.0)
    assert (len(result.items), result.num_rejected) == (6, 2)


def test_rates_and_their_intervals():
    items = tuple(Item(str(i), "", "", accuracy=float(i < 8), format=float(i < 5)) for i in range(10))
    result = Evaluation(items)
    assert (result.rate("accuracy"), result.rate("format")) == (0.8, 0.5)
    # 8 of 10 and 5 of 10, see test_intervals; four digits
    assert result.interval("accuracy") == pytest.approx((0.4902, 0.9433), abs=5e-5)
    assert result.interval("format") == pytest.approx((0.2366, 0.7634), abs=5e-5)


def test_what_is_written_is_read_again(tmp_path):
    items = (
        Item("a", "<think> 1 + 2 </think>\n<answer> 3 </answer>\n", "3", 1.0, 1.0),
        Item("b", 'a "quote", a \\ and a tab\t', "7", 0.0, 1.0),
        Item("Zürich 東京", "π ≈ 3,14", "√2", 0.0, 0.0),
        Item("d", "", "", 0.0, 0.0),
    )
    file = tmp_path / "evaluation" / "step_0.jsonl"
    Evaluation(items).write(file)
    lines = file.read_text("utf-8").split("\n")
    assert [json.loads(line)["id"] for line in lines[:-1]] == ["a", "b", "Zürich 東京", "d"] and lines[-1] == ""
    assert "東京" in lines[2]  # to be read by people too
    assert Evaluation.read(file).items == items


@pytest.mark.parametrize("separator", ["\r", "\x0b", "\x1c", "\x85", "\u2028", "\u2029"], ids=ascii)
def test_a_response_may_hold_any_character(tmp_path, separator):
    """Python's splitlines knows more ends of a line than JSON escapes."""
    items = (Item("a", f"one{separator}two", "3", 1.0, 1.0), Item("b", "", "", 0.0, 0.0))
    Evaluation(items).write(tmp_path / "step_0.jsonl")
    assert Evaluation.read(tmp_path / "step_0.jsonl").items == items

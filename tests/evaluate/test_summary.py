"""Numbers of an evaluation: pass@k, tests and intervals by hand, and what the page shows of them."""

import math
from itertools import combinations

import pytest

from megatron_eureka.datasets.benchmarks import Benchmark
from megatron_eureka.evaluate.intervals import mcnemar, mean_interval, paired_rates, pass_at_k, sign_flip, wilson
from megatron_eureka.evaluate.report import main_table, markdown
from megatron_eureka.evaluate.responses import Response
from megatron_eureka.evaluate.results import ItemResult, SampleResult, score_responses, with_verdicts
from megatron_eureka.evaluate.scoring import AnswerScorer
from megatron_eureka.evaluate.summary import compare, rate, summarize
from tests.evaluate.items import item


@pytest.mark.parametrize(("n", "c"), [(1, 0), (1, 1), (4, 2), (5, 1), (6, 6)])
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(n, c):
    for k in range(1, n + 1):
        draws = list(combinations([True] * c + [False] * (n - c), k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))


@pytest.mark.parametrize(("n", "c", "k"), [(4, 2, 0), (4, 2, 5), (4, 5, 1), (4, -1, 1), (0, 0, 1)])
def test_pass_at_k_refuses_what_cannot_be(n, c, k):
    with pytest.raises(ValueError, match=f"pass@{k} of {n} samples"):
        pass_at_k(n, c, k)


@pytest.mark.parametrize(
    ("won", "lost", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 0, 2 / 32),
        (0, 6, 2 / 64),
        (8, 2, 2 * (1 + 10 + 45) / 1024),
        (3, 3, 1.0),
    ],
)
def test_mcnemar_by_hand(won, lost, p):
    before = [0.0] * won + [1.0] * lost + [1.0, 0.0]
    after = [1.0] * won + [0.0] * lost + [1.0, 0.0]
    assert mcnemar(before, after) == pytest.approx(p)


def test_mcnemar_of_many_items_stays_exact():
    # scipy.stats.binomtest(1900, 4000).pvalue
    assert mcnemar([0.0] * 1900 + [1.0] * 2100, [1.0] * 1900 + [0.0] * 2100) == pytest.approx(0.00164926638, rel=1e-8)


def test_mcnemar_refuses_shares():
    with pytest.raises(ValueError, match="right and wrong"):
        mcnemar([0.5], [1.0])


def test_sign_flip_agrees_with_counting_all_signs():
    before, after = [0.0, 0.0, 0.5, 0.25, 1.0], [0.5, 1.0, 0.5, 0.5, 0.75]
    differences = [0.5, 1.0, 0.25, -0.25]
    found = abs(sum(differences))
    signs = [[1 if mask >> bit & 1 else -1 for bit in range(4)] for mask in range(16)]
    exact = sum(abs(sum(s * d for s, d in zip(sign, differences, strict=True))) >= found for sign in signs) / 16
    assert sign_flip(before, after) == pytest.approx(exact)
    assert sign_flip(before, before) == sign_flip([0.0], [0.5]) == 1.0


def test_sign_flip_draws_where_all_signs_are_too_many():
    # 12 up and 8 down: twice the binomial tail from 12 on. 10,000 draws: a standard error of half a point.
    after = [1.0] * 12 + [-1.0] * 8
    exact = 2 * sum(math.comb(20, k) for k in range(12, 21)) / 2**20
    assert sign_flip([0.0] * 20, after) == pytest.approx(exact, abs=0.02)
    assert sign_flip([0.0] * 20, [1.0] * 20) == pytest.approx(2 / 10_001)  # either tail is the one found alone


def test_paired_rates_by_hand():
    # 8 won, 2 lost of 20: (8 - 2) / 22 +- 1.959964 * sqrt((11 / 22 - (6 / 22) ** 2) / 22) = 0.272727 +- 0.272614
    assert paired_rates(8, 2, 20) == pytest.approx((0.3, 0.000113, 0.545341), abs=2e-6)
    _, low, high = paired_rates(0, 0, 20)
    assert low == -high and high == pytest.approx(1.959964 * math.sqrt(1 / 22 / 22))
    with pytest.raises(ValueError, match="cannot be"):
        paired_rates(3, 2, 4)


def test_mean_intervals():
    assert mean_interval([1.0, 0.0, 1.0]) == wilson(2, 3)
    # mean 0.5, variance (0.25 ** 2 * 2) / 2 = 0.0625, standard error 0.25 / sqrt(3) = 0.144338
    assert mean_interval([0.25, 0.5, 0.75]) == pytest.approx((0.5 - 0.282897, 0.5 + 0.282897), abs=1e-6)
    assert mean_interval([0.5]) == (0.0, 1.0)


def result(name, correct, subset="x", truncated=0, rejected=""):
    """An item with one sample for each of `correct`."""
    question = item("3", "integer", id=name, subsets={"task": (subset,), "skills": (subset, "all")})
    samples = tuple(SampleResult("r", "e", bool(c), bool(c), None, i < truncated) for i, c in enumerate(correct))
    return ItemResult(question, samples, rejected)


def test_rates_count_items_and_refused_ones_are_wrong():
    results = [result("a", "1", "x"), result("b", "", "y", rejected="too long"), result("c", "1", "y")]
    results[2] = ItemResult(results[2].item, (SampleResult("r", "", False, False, None, True),))
    summary = summarize(results, [1])
    assert (summary["items"], summary["samples"]) == (3, 2)
    assert summary["accuracy"] == rate([1.0, 0.0, 0.0]) and summary["accuracy"]["value"] == pytest.approx(1 / 3)
    assert (summary["unanswered"], summary["truncated"], summary["without_answer"]) == (1, 1, 1)
    assert {value: entry["items"] for value, entry in summary["subsets"]["skills"].items()} == {
        "all": 3,
        "x": 1,
        "y": 2,
    }
    assert summary["subsets"]["task"]["y"]["value"] == 0.0
    assert "judge" not in summary


def test_pass_at_k_is_averaged_over_items():
    results = [result("a", [1, 0, 0, 0]), result("b", [0, 0, 0, 0]), result("c", [], rejected="no")]
    summary = summarize(results, [1, 2, 4])
    values = {k: entry["value"] for k, entry in summary["pass_at_k"].items()}
    assert values == pytest.approx({"1": 0.25 / 3, "2": 0.5 / 3, "4": 1 / 3})
    assert summary["accuracy"]["value"] == pytest.approx(values["1"])
    with pytest.raises(ValueError, match="Item a has 4 samples, too few for pass@5"):
        summarize(results, [5])


def test_two_models_are_compared_item_by_item():
    before = [result(str(n), [n < 3]) for n in range(10)]
    after = [result(str(n), [n not in (0, 9)]) for n in range(10)]
    paired = compare(before, after)
    assert (paired["won"], paired["lost"], paired["test"]) == (6, 1, "McNemar, exact")
    assert paired["difference"] == pytest.approx(0.5) and paired["p"] == pytest.approx(2 * 8 / 128)
    several = compare([result("a", [0, 0]), result("b", [1, 0])], [result("a", [1, 0]), result("b", [1, 1])])
    assert several["difference"] == pytest.approx(0.5) and several["test"] == "paired permutation"
    assert compare(before[:1], after[:1]) is None
    with pytest.raises(AssertionError, match="same"):
        compare(before, after[:9])


def test_the_judge_replaces_verdicts_and_the_rules_stay_visible():
    results = with_verdicts([result("a", [0]), result("b", [1]), result("c", [1])], [True, None, False])
    assert [r.accuracy for r in results] == [1.0, 1.0, 0.0]
    judge = summarize(results, [1])["judge"]
    assert (judge["judged"], judge["left_to_rules"], judge["agreement"]) == (2, 1, 0.0)
    assert judge["accuracy_by_rule"]["value"] == pytest.approx(2 / 3)


def test_records_have_what_people_look_for():
    question = item("3", "integer", id="7", subsets={"task": ("counting",)})
    with AnswerScorer() as scorer:
        benchmark = Benchmark("mathvista", (), (question, item("4", "integer", id="8")), {})
        given = {"7": Response("7", ("<answer>3</answer>", "no"), ("stop", "length"))}
        one, two = score_responses(benchmark, given, scorer)
    record = one.record()
    assert {name: record[name] for name in ("id", "prompt", "response", "extracted", "gold", "correct")} == {
        **{"id": "7", "prompt": "How many?", "response": "<answer>3</answer>"},
        **{"extracted": "3", "gold": "3", "correct": True},
    }
    assert [sample["correct"] for sample in record["samples"]] == [True, False]
    assert record["samples"][1]["truncated"] and record["subsets"] == {"task": ["counting"]}
    assert (two.record()["correct"], two.record()["refused"]) == (False, "no response")


def page_summary():
    before = [result(str(n), [n < 3], "x" if n % 2 else "y | z") for n in range(10)]
    after = [result(str(n), [n not in (0, 9)], "x" if n % 2 else "y | z") for n in range(10)]
    models = {"base": summarize(before, [1]), "tuned": summarize(after, [1])}
    entry = {"files": [], "left_out": {"image": 2}, "models": models, "paired": compare(before, after)}
    return {
        "models": {"base": "models/base", "tuned": "models/tuned"},
        "settings": {"samples": 1, "temperature": 0.0, "judge": ""},
        "comparisons_failed": 0,
        "benchmarks": {"mathvista": entry},
    }


def test_the_page_shows_base_and_tuned_side_by_side():
    summary = page_summary()
    table = main_table(summary).split("\n")
    assert table[2] == "| benchmark | n |  | base | tuned | difference | p |"
    # Wilson: 3 of 10 is [0.1078, 0.6032], 8 of 10 [0.4902, 0.9433]; 5 / 12 +- 1.96 * sqrt((8 / 12 - 25 / 144) / 12)
    assert table[4] == (
        "| mathvista | 10 | pass@1 | 30.0 [10.8, 60.3] | 80.0 [49.0, 94.3] | +50.0 [+1.9, +81.4] | 0.125 |"
    )
    page = markdown(summary)
    assert "- base: `models/base`" in page and "- temperature: 0.0" in page and "judge" not in page
    assert "2 malformed rows left out (2 image)" in page
    assert "| y \\| z | 5 | 40.0 [" in page  # 0 and 2 of 0, 2, 4, 6, 8
    assert "by skills" in page


def test_the_line_of_a_benchmark_says_how_many_items_had_no_response():
    summary = page_summary()
    models = summary["benchmarks"]["mathvista"]["models"]
    models["base"]["unanswered"] = 4
    assert "| mathvista | 10 (base: 4 without a response) | pass@1 |" in main_table(summary)
    models["tuned"]["unanswered"] = 1
    assert "| 10 (base: 4, tuned: 1 without a response) |" in main_table(summary)
    del summary["models"]["base"], models["base"]
    summary["benchmarks"]["mathvista"]["paired"] = None
    assert "| 10 (1 without a response) |" in main_table(summary)


def test_a_page_of_one_model_has_no_difference():
    summary = page_summary()
    del summary["models"]["base"]
    entry = summary["benchmarks"]["mathvista"]
    summary["benchmarks"]["mathvista"] = {**entry, "models": {"tuned": entry["models"]["tuned"]}, "paired": None}
    assert main_table(summary).split("\n")[2] == "| benchmark | n |  | tuned |"

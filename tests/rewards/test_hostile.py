"""Whatever a model writes: a verdict or a counted failure, in time, and the next answer is judged as ever."""

import logging
import math
import time
from contextlib import closing

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from math_verify import LatexExtractionConfig, parse, verify
from sympy import S

from megatron_eureka.answers.choices import gold_letters, gold_run, named_letters
from megatron_eureka.answers.exact import compare_numbers
from megatron_eureka.answers.notation import bare, normal
from megatron_eureka.config.schema import Repetition, Reward
from megatron_eureka.rewards.accuracy import check_label, score_accuracy
from megatron_eureka.rewards.format import score_format
from megatron_eureka.rewards.penalties import score_repetition
from megatron_eureka.rewards.pool import VerifierPool
from megatron_eureka.rewards.scorer import Scorer
from tests.rewards.hostile_texts import HOSTILE, MIB

pytestmark = pytest.mark.slow  # every one waits for processes that start anew

TIMEOUT_S = 1.0
# A worker that was killed starts again within 2 s alone on a core; others may have the core.
MARGIN_S = 20.0


@pytest.fixture(scope="module")
def scorer():
    options = Reward(workers=2, timeout_s=TIMEOUT_S, repetition=Repetition(penalty=1.0))
    with Scorer(options, 100) as scorer:
        scorer.score(["?"] * 2, ["8", "9"], ["8"] * 2)  # the workers have started
        yield scorer


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers_end_in_time(scorer, name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    text = HOSTILE[name]
    responses = [f"<think> t </think><answer> {text} </answer>", text, "<answer> 8 </answer>"]
    start = time.monotonic()
    scores = scorer.score(["?"] * 3, responses, ["8"] * 3)
    assert time.monotonic() - start < 2 * TIMEOUT_S + MARGIN_S
    assert all(score["accuracy"] in (0.0, 1.0) and math.isfinite(score["total"]) for score in scores)
    assert scores[2]["accuracy"] == 1.0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("compat", ["none", "mm_eureka"])
def test_hostile_labels_end_in_time(compat):
    texts = [text for text in HOSTILE.values() if len(text) < 2_000]
    with closing(VerifierPool(2, TIMEOUT_S)) as pool:
        start = time.monotonic()
        outcomes = pool.run([("check_label", (text, compat)) for text in texts])
        outcomes += pool.run([("score_accuracy", ("<answer> 8 </answer>", text, compat)) for text in texts])
        assert time.monotonic() - start < 2 * len(texts) * TIMEOUT_S + MARGIN_S
    for outcome in outcomes[len(texts) :]:
        assert outcome.status != "ok" or outcome.value in (0.0, 1.0)


def test_a_long_answer_is_wrong():
    assert score_accuracy("<answer>" + " " * 200_000 + "8</answer>", "8") == 1.0  # blanks do not count
    assert score_accuracy("<answer>" + "0" * 100_001 + "8</answer>", "8") == 0.0


@pytest.mark.parametrize("name", HOSTILE)
def test_what_runs_in_the_trainer_or_before_the_parser_is_linear(name):
    """256 KiB of each text; what backtracks takes minutes for one."""
    text = (HOSTILE[name] * (MIB // len(HOSTILE[name]) + 1))[: MIB // 4]
    functions = [score_format, gold_letters, gold_run, named_letters, normal, bare]
    functions += [lambda text: score_repetition(text, 3, 1.0), lambda text: compare_numbers(text, "8")]
    start = time.process_time()
    for function in functions:
        function(text)
    assert time.process_time() - start < 5  # half a second at most, measured


PIECES = st.sampled_from(
    [
        r"\frac{",
        r"\sqrt{",
        r"\boxed{",
        r"\text{",
        r"\left(",
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        "$",
        "^",
        "_",
        "\\",
        "<",
        ">",
    ]
    + [
        "<answer>",
        "</answer>",
        "<think>",
        "</think>",
        " or ",
        " and ",
        " is ",
        "not ",
        "=",
        ",",
        "±",
        "²",
        "√",
        "%",
        "°",
    ]
    + [
        "0",
        "1",
        "-3",
        "9999999",
        "x",
        "A",
        "B",
        "π",
        "是",
        "yes",
        r"\infty",
        r"\cup",
        r"\pm ",
        r"\log_",
        "!",
        "e9",
        "\n",
    ]
)
TEXTS = st.one_of(
    st.text(max_size=40),  # surrogates are in it
    st.lists(PIECES, max_size=12).map("".join),
    st.lists(st.one_of(PIECES, st.text(max_size=3)), max_size=12).map("".join),
)


@given(pairs=st.lists(st.tuples(TEXTS, TEXTS), min_size=30, max_size=60))
@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
def test_any_text_gets_a_verdict(scorer, pairs, caplog):
    caplog.set_level(logging.CRITICAL)
    responses, labels = zip(*pairs, strict=True)
    start = time.monotonic()
    scores = scorer.score(["?"] * len(pairs), list(responses), list(labels))
    assert time.monotonic() - start < len(pairs) * TIMEOUT_S + MARGIN_S
    assert all(score["accuracy"] in (0.0, 1.0) and score["format"] in (0.0, 1.0) for score in scores)


NUMBERS = st.one_of(
    st.integers(-(10**6), 10**6).map(str),
    st.decimals(-1000, 1000, places=3).map(str),
    st.builds("{}/{}".format, st.integers(-99, 99), st.integers(1, 99)),
    st.builds(r"\frac{{{}}}{{{}}}".format, st.integers(0, 99), st.integers(1, 99)),
)
ENDS = st.one_of(NUMBERS, st.sampled_from([r"\infty", r"-\infty", r"+\infty"]))
RANGES = st.builds("{}{}, {}{}".format, st.sampled_from("(["), ENDS, ENDS, st.sampled_from(")]"))
POINTS = st.lists(NUMBERS, min_size=2, max_size=4).map(lambda items: f"({','.join(items)})")


@given(pair=st.one_of(*(st.tuples(kind, kind) for kind in (NUMBERS, RANGES, POINTS))))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_the_exact_comparison_agrees_with_math_verify(pair):
    verdict = compare_numbers(*pair)
    if verdict is not None:
        gold, found = (parse(f"${text}$", [LatexExtractionConfig()], parsing_timeout=None) for text in pair)
        assume(S.EmptySet not in gold + found)  # to which [1, 0] and [2, 0] are equal, though nobody means it
        assert verdict == verify(gold, found, timeout_seconds=None)


def test_what_rounding_may_decide_is_left_to_math_verify():
    assert compare_numbers("1/3", "0.333333") is None
    assert compare_numbers("1/3", "0.33333") is None and compare_numbers("1/3", "0.333") is False
    assert compare_numbers("1/0", "1/0") is compare_numbers("(1,2)", "[1,2]") is compare_numbers("x", "1") is None


@given(label=st.one_of(NUMBERS, st.sampled_from([r"\sqrt{2}", "x^2+1", "A", "yes", "(1,2)", "[1,2)", r"\{1,2\}"])))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_a_label_is_a_right_answer_to_itself(label):
    assert check_label(label) is None
    for answer in (label, f"${label}$", rf"\boxed{{{label}}}", f"The answer is ${label}$."):
        assert score_accuracy(f"<think> t </think><answer> {answer} </answer>", label) == 1.0, answer

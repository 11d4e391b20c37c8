"""The scorer: totals, weights, the user's functions, and a run that no sample can stop."""

import pytest

from megatron_eureka.config.schema import Reward
from megatron_eureka.rewards.scorer import Scorer

GOOD = "<think> 3 and 5 </think><answer> 8 </answer>"


@pytest.fixture(scope="module")
def scorer():
    with Scorer(Reward(workers=1), 100) as scorer:
        yield scorer


def test_totals(scorer):
    responses = [GOOD, "8", "<think> x </think><answer> 9 </answer>", "nothing"]
    scores = scorer.score(["?"] * 4, responses, ["8"] * 4)
    assert [(s["accuracy"], s["format"], s["total"]) for s in scores] == [
        (1, 1, 1.5),
        (1, 0, 1),
        (0, 1, 0.5),
        (0, 0, 0),
    ]
    assert scorer.counters == {"timeouts": 0, "errors": 0}


def test_labels_are_checked(scorer):
    assert scorer.check_label("8") is None
    assert "cannot parse" in scorer.check_label(r"\frac{")


def test_options_reach_the_components():
    with Scorer(Reward(workers=1, compat="mm_eureka", accuracy_weight=2.0, format_weight=0.25), 100) as theirs:
        (score,) = theirs.score(["?"], ["<think> x </think><answer> circle </answer>"], ["c"])
        assert score == {"accuracy": 1.0, "format": 1.0, "total": 2.25}
    with Scorer(Reward(workers=1, format_anchored=True), 100) as anchored:
        assert anchored.score(["?"], [f"Well, {GOOD}"], ["8"])[0] == {"accuracy": 1.0, "format": 0.0, "total": 1.0}


@pytest.mark.slow
def test_a_verification_that_never_ends_scores_zero_and_is_counted():
    """sympy would add up numbers beyond all memory."""
    hostile = r"<answer>$\sum_{n=1}^{10^{12}} n^{n}$</answer>"
    with Scorer(Reward(workers=1, timeout_s=1.0), 100) as scorer:
        scores = scorer.score(["?"] * 2, [hostile, GOOD], ["7", "8"])
        assert [score["accuracy"] for score in scores] == [0.0, 1.0]
        assert scorer.counters == {"timeouts": 1, "errors": 0}


def test_user_functions_add_to_the_total(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "def length(prompts, responses, labels):\n"
        "    return {'short': [-len(r) / 10 for r in responses], 'asked': [float(p == '?') for p in prompts]}\n"
        "def touchy(prompts, responses, labels):\n"
        "    return {'calm': [1 / (len(r) - 1) for r in responses]}\n"
        "def holes(prompts, responses, labels):\n"
        "    return {'full': [None, float('nan'), 1.0]}\n"
    )
    with Scorer(Reward(workers=1, functions=[f"{file}:length"]), 100) as scorer:
        scores = scorer.score(["?", "!"], ["8", "12345"], ["8", "7"])
    assert scores[0] == {"accuracy": 1.0, "format": 0.0, "short": -0.1, "asked": 1.0, "total": 1.9}
    assert scores[1] == {"accuracy": 0.0, "format": 0.0, "short": -0.5, "asked": 0.0, "total": -0.5}
    with Scorer(Reward(workers=1, functions=[f"{file}:touchy"]), 100) as scorer:
        scores = scorer.score(["?"] * 3, ["123", "1", "12"], ["1"] * 3)
        assert [score["calm"] for score in scores] == [0.5, 0.0, 1.0]  # the second divides by zero
        assert scorer.counters["errors"] == 1
    with Scorer(Reward(workers=1, functions=[f"{file}:holes"]), 100) as scorer:
        scores = scorer.score(["?"] * 3, ["1", "2", "3"], ["1"] * 3)
        assert [score["full"] for score in scores] == [0.0, 0.0, 1.0]
        assert scorer.counters["errors"] == 2


@pytest.mark.slow
def test_a_user_function_that_hangs_costs_its_samples_and_no_more(tmp_path):
    file = tmp_path / "slow.py"
    file.write_text(
        "import time\n"
        "def slow(prompts, responses, labels):\n"
        "    if 'wait' in responses:\n        time.sleep(60)\n"
        "    return {'quick': [1.0] * len(responses)}\n"
    )
    with Scorer(Reward(workers=1, functions=[f"{file}:slow"], function_timeout_s=1.5), 100) as scorer:
        scores = scorer.score(["?"] * 3, ["1", "wait", "2"], ["1"] * 3)
        assert [score["quick"] for score in scores] == [1.0, 0.0, 1.0]
        assert scorer.counters == {"timeouts": 1, "errors": 0}


@pytest.mark.parametrize("text, part", [("x = 1\n", "has no function"), ("def f(:\n", "not valid Python")])
def test_a_file_without_the_function_is_refused_before_anything_runs(tmp_path, text, part):
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(ValueError, match=part):
        Scorer(Reward(functions=[f"{file}:reward"]), 100)


@pytest.mark.parametrize(
    "body, part",
    [
        ("return [1.0]", "expected a dict"),
        ("return {'a': [1.0, 2.0]}", "2 values of 'a' for 1 samples"),
        ("return {'total': [1.0]}", "reserved"),
        ("return {'a': 1.0}", "returned float of 'a'"),
    ],
)
def test_wrong_results_of_user_functions_are_refused(tmp_path, body, part):
    (tmp_path / "mine.py").write_text(f"def mine(prompts, responses, labels):\n    {body}\n")
    with (
        Scorer(Reward(workers=1, functions=[f"{tmp_path}/mine.py:mine"]), 100) as scorer,
        pytest.raises(ValueError, match=part),
    ):
        scorer.score(["?"], ["8"], ["8"])


@pytest.mark.parametrize(
    "reference, part", [("mine", "form"), ("gone.py:mine", "missing"), ("{}/a.py:b", "no function 'b'")]
)
def test_references_are_checked_at_the_start(tmp_path, reference, part):
    (tmp_path / "a.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match=part):
        Scorer(Reward(functions=[reference.format(tmp_path)]), 100)


def test_rewards_import_no_torch():
    import subprocess
    import sys

    code = "import sys, megatron_eureka.rewards.scorer; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

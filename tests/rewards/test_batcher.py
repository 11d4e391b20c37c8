"""Work beside its caller: rewards that are made before anyone asks for them."""

import threading
import time

import pytest

from megatron_eureka.config.schema import Reward
from megatron_eureka.rewards.batcher import Batcher
from megatron_eureka.rewards.scorer import Scorer

LIMIT_S = 30


@pytest.fixture
def gated():
    """A batcher whose work waits until it is let go, and the lists of items that it was given."""
    go, begun, given = threading.Event(), threading.Event(), []

    def work(items):
        begun.set()
        assert go.wait(timeout=LIMIT_S)
        given.append(list(items))
        return [len(item) for item in items]

    batcher = Batcher(work)
    yield batcher, go, begun, given
    go.set()
    batcher.close()


def test_items_that_come_during_work_are_the_next_list(gated):
    batcher, go, begun, given = gated
    futures = [batcher.submit("a")]
    assert begun.wait(timeout=LIMIT_S)
    futures += [batcher.submit(text) for text in ("bb", "ccc", "bb")]
    assert not any(future.done() for future in futures)
    go.set()
    assert [future.result(timeout=LIMIT_S) for future in futures] == [1, 2, 3, 2]
    assert given == [["a"], ["bb", "ccc", "bb"]]
    assert batcher.submit("dddd").result(timeout=LIMIT_S) == 4  # after a rest


def test_what_the_work_raises_is_raised_where_results_are_taken():
    def fails(items):
        if "bad" in items:
            raise ValueError("no such thing")
        return [1 for _ in items]

    batcher = Batcher(fails)
    with pytest.raises(ValueError, match="no such thing"):
        batcher.submit("bad").result(timeout=LIMIT_S)
    assert batcher.submit("good").result(timeout=LIMIT_S) == 1
    batcher.close()


def test_a_wrong_number_of_results_is_an_error_and_leaves_nobody_waiting():
    batcher = Batcher(lambda items: [])
    with pytest.raises(ValueError):
        batcher.submit("a").result(timeout=LIMIT_S)
    batcher.close()


def test_close_cancels_what_waits(gated):
    batcher, go, begun, given = gated
    first = batcher.submit("a")
    assert begun.wait(timeout=LIMIT_S)
    second = batcher.submit("b")
    threading.Timer(0.2, go.set).start()
    batcher.close()
    assert first.result(timeout=LIMIT_S) == 1 and second.cancelled() and given == [["a"]]


def test_equal_answers_of_a_group_are_verified_once():
    with Scorer(Reward(workers=2), max_response_tokens=100) as scorer:
        asked, run = [], scorer._pool.run
        scorer._pool.run = lambda calls: asked.extend(call[1][:2] for call in calls) or run(calls)
        scores = scorer.score(["?"] * 4, ["8", "9", "8", "$16/2$"], ["8"] * 4)
        assert [score["accuracy"] for score in scores] == [1.0, 0.0, 1.0, 1.0]
        assert sorted(asked) == [("$16/2$", "8"), ("8", "8"), ("9", "8")]
        assert scorer.score(["?"], ["8"], ["7"])[0]["accuracy"] == 0.0  # another label is another question


def test_functions_and_verification_work_beside_the_caller_and_each_other(tmp_path):
    """Each of two functions waits for a file that the other one writes, and both for one that this test writes."""
    file = tmp_path / "mine.py"
    file.write_text(
        "import pathlib, time\n"
        "def meet(mine, other):\n"
        "    here = pathlib.Path(__file__).parent\n"
        "    (here / mine).touch()\n"
        "    while not ((here / other).exists() and (here / 'go').exists()):\n"
        "        time.sleep(0.01)\n"
        "def one(prompts, responses, labels):\n"
        "    meet('1', '2')\n"
        "    return {'one': [1.0] * len(responses)}\n"
        "def two(prompts, responses, labels):\n"
        "    meet('2', '1')\n"
        "    return {'two': [2.0] * len(responses)}\n"
    )
    functions = [f"{file}:one", f"{file}:two"]
    with Scorer(Reward(workers=1, functions=functions, function_timeout_s=LIMIT_S), 100) as scorer:
        pending = scorer.submit(["?"] * 2, ["8", "9"], ["8"] * 2)
        assert pending.accuracy.result(timeout=LIMIT_S) == [1.0, 0.0]
        (tmp_path / "go").touch()
        assert [score["total"] for score in pending.result()] == [4.0, 3.0]
        assert scorer.counters == {"timeouts": 0, "errors": 0}


def test_a_scorer_that_is_closed_ends_a_function_that_hangs(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import pathlib, time\n"
        "def hang(prompts, responses, labels):\n"
        "    (pathlib.Path(__file__).parent / 'begun').touch()\n"
        "    time.sleep(600)\n"
    )
    scorer = Scorer(Reward(workers=1, functions=[f"{file}:hang"], function_timeout_s=600), 100)
    pending = scorer.submit(["?"], ["8"], ["8"])
    deadline = time.monotonic() + LIMIT_S
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    start = time.monotonic()
    scorer.close()
    assert time.monotonic() - start < 10
    with pytest.raises(RuntimeError, match="ended while they were at work"):
        pending.users[0].result(timeout=LIMIT_S)


@pytest.mark.slow
def test_a_function_that_always_hangs_costs_few_time_limits(tmp_path):
    """Ten batches of two: the first is tried as a whole and by sample; what waited meanwhile is given up."""
    file = tmp_path / "mine.py"
    file.write_text(
        "import time\ndef hang(prompts, responses, labels):\n"
        "    open(__file__ + '.calls', 'a').write('.')\n    time.sleep(600)\n"
    )
    with Scorer(Reward(workers=1, functions=[f"{file}:hang"], function_timeout_s=1.0), 100) as scorer:
        pending = [scorer.submit(["?"] * 2, ["8", "9"], ["8"] * 2) for _ in range(10)]
        totals = [score["total"] for scores in pending for score in scores.result()]
        assert totals == [1.0, 0.0] * 10 and scorer.counters == {"timeouts": 20, "errors": 0}
    assert len((tmp_path / "mine.py.calls").read_text()) <= 3 + 5  # one list of a batch, one of the rest

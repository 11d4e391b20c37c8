"""Work beside its caller: rewards that are made before anyone asks for them."""

import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from megatron_eureka.config.schema import Reward
from megatron_eureka.rewards import pool as pool_module
from megatron_eureka.rewards.loop_thread import LoopThread
from megatron_eureka.rewards.pool import Outcome, VerifierPool
from megatron_eureka.rewards.scorer import Scorer

LIMIT_S = 30
HOSTILE = Path(__file__).with_name("hostile_verifier.py")


@pytest.fixture
def pool():
    pool = VerifierPool(workers=2, timeout_s=LIMIT_S, verifier=HOSTILE)
    yield pool
    pool.close()


def test_what_comes_during_work_is_worked_on_beside_it(pool):
    first = pool.submit(pool.call_all([("hang", (0,))]))
    futures = [pool.submit(pool.call_all([("double", (number,)), ("double", ("a",))])) for number in range(3)]
    found = [future.result(timeout=LIMIT_S) for future in futures]
    assert found == [[Outcome("ok", 2 * number), Outcome("ok", "aa")] for number in range(3)] and not first.done()
    assert len(pool.pids()) == 2


def test_what_the_work_raises_is_raised_where_results_are_taken(pool):
    async def fail():
        await pool.call_all([("double", (1,))])
        raise ValueError("no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        pool.submit(fail()).result(timeout=LIMIT_S)
    assert pool.run([("double", (1,))]) == [Outcome("ok", 2)]


def test_an_answer_counts_that_came_while_the_loop_had_no_turn(monkeypatch):
    """Where another thread keeps the interpreter to itself, or the machine stood still."""
    with closing(VerifierPool(workers=1, timeout_s=2.0, verifier=HOSTILE)) as pool:
        pool.run([("double", (1,))])
        receive = pool_module._receive

        async def late(process):
            time.sleep(2.5)  # the call is written, the loop stands still
            return await receive(process)

        monkeypatch.setattr(pool_module, "_receive", late)
        assert pool.run([("double", (2,))]) == [Outcome("ok", 4)]


def test_close_ends_what_is_at_work_and_what_waits(pool):
    futures = [pool.submit(pool.call_all([("hang", (0,))])) for _ in range(5)]
    pool.run([])  # all of them have begun
    threading.Timer(0.2, pool.close).start()
    for future in futures:
        with pytest.raises(RuntimeError, match="ended while they were at work"):
            future.result(timeout=LIMIT_S)


def test_a_loop_that_was_closed_takes_nothing():
    done = []

    async def last():
        done.append("last")

    loop = LoopThread("test")
    for _ in range(2):
        loop.close(last)
    assert done == ["last"]
    with pytest.raises(RuntimeError, match="has been closed"):
        loop.submit(last())


def test_equal_answers_of_a_group_are_verified_once():
    with Scorer(Reward(workers=2), max_response_tokens=100) as scorer:
        asked, call_all = [], scorer._pool.call_all
        scorer._pool.call_all = lambda calls: asked.extend(call[1][:2] for call in calls) or call_all(calls)
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
    """Ten batches of two: the first two are tried as a whole and by sample; what waited meanwhile is given up."""
    file = tmp_path / "mine.py"
    file.write_text(
        "import time\ndef hang(prompts, responses, labels):\n"
        "    open(__file__ + '.calls', 'a').write('.')\n    time.sleep(600)\n"
    )
    with Scorer(Reward(workers=1, functions=[f"{file}:hang"], function_timeout_s=1.0), 100) as scorer:
        pending = [scorer.submit(["?"] * 2, ["8", "9"], ["8"] * 2) for _ in range(10)]
        totals = [score["total"] for scores in pending for score in scores.result()]
        assert totals == [1.0, 0.0] * 10 and scorer.counters == {"timeouts": 20, "errors": 0}
    assert len((tmp_path / "mine.py.calls").read_text()) == 3 + 2  # three samples hang

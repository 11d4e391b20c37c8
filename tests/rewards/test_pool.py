"""The pool never hangs: time limits, deaths, errors, forks; and nothing stays behind."""

import os
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from random import Random

import pytest

from megatron_eureka.rewards.pool import Outcome, VerifierPool

HOSTILE = Path(__file__).with_name("hostile_verifier.py")


@pytest.fixture
def pool():
    # Half a second is a thousand times what `double` takes, so only the functions that hang reach it.
    pool = VerifierPool(workers=2, timeout_s=0.5, verifier=HOSTILE)
    yield pool
    pool.close()


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def kill(pid):
    with suppress(ProcessLookupError):  # one that was killed while idle is taken away by the next call
        os.kill(pid, 9)


def test_results_come_in_the_order_of_calls(pool):
    calls = [("double", (number,)) for number in range(50)]
    assert pool.run(calls) == [Outcome("ok", 2 * number) for number in range(50)]
    assert len(pool.pids()) == 2
    assert pool.run([]) == []


@pytest.mark.parametrize("name", ["hang", "hang_deaf_to_alarms"])
def test_a_call_that_hangs_times_out_and_the_others_do_not_notice(pool, name):
    calls = [("double", (1,)), (name, (0,)), ("double", (2,)), (name, (0,)), ("double", (3,))]
    outcomes = pool.run(calls)
    assert [outcome.status for outcome in outcomes] == ["ok", "timeout", "ok", "timeout", "ok"]
    assert [outcome.value for outcome in outcomes[::2]] == [2, 4, 6]
    assert pool.counters == {"timeouts": 2, "errors": 0}


def test_errors_are_counted_and_name_themselves(pool):
    outcomes = pool.run([("fail", ("boo",)), ("double", (1,)), ("devour", (0,)), ("no_such_function", ())])
    assert [outcome.status for outcome in outcomes] == ["error", "ok", "error", "error"]
    assert outcomes[0].value == "ArithmeticError: boo" and outcomes[2].value.startswith("MemoryError")
    assert pool.counters == {"timeouts": 0, "errors": 3}


def test_a_worker_that_dies_is_replaced_and_its_call_tried_once_more(pool, tmp_path):
    outcomes = pool.run([("die_once", (str(tmp_path / "flag"),)), ("die", (0,)), ("double", (4,))])
    assert outcomes[0] == Outcome("ok", "alive") and outcomes[2] == Outcome("ok", 8)
    assert outcomes[1].status == "error" and pool.counters == {"timeouts": 0, "errors": 1}


def test_workers_killed_while_idle_cost_nothing(pool):
    pool.run([("double", (1,)), ("double", (2,))])
    for pid in pool.pids():
        os.kill(pid, 9)
    assert pool.run([("double", (3,)), ("double", (4,))]) == [Outcome("ok", 6), Outcome("ok", 8)]
    assert pool.counters == {"timeouts": 0, "errors": 0}


def test_a_worker_killed_at_any_moment_costs_nothing():
    """Also while a call is on its way: a pool whose workers share a pipe waits for ever then."""
    moments, calls = Random(0), [("double", ("x" * 100_000,))] * 60
    with closing(VerifierPool(workers=2, timeout_s=60, verifier=HOSTILE)) as pool:
        pool.run(calls[:2])
        for _ in range(12):  # one death a run: a call that dies twice would be an error
            killer = threading.Timer(0.1 * moments.random(), kill, [moments.choice(pool.pids())])
            killer.start()
            assert pool.run(calls) == [Outcome("ok", "x" * 200_000)] * len(calls)
            killer.join()
        assert pool.counters == {"timeouts": 0, "errors": 0}


def test_workers_are_light_and_their_output_is_their_own(pool):
    assert pool.run([("loaded", (0,)), ("shout", (7,)), ("double", ("x" * 300_000,))]) == [
        Outcome("ok", []),
        Outcome("ok", 7),
        Outcome("ok", "x" * 600_000),
    ]


def test_close_leaves_no_process_and_a_later_call_starts_again(pool):
    pool.run([("double", (1,)), ("double", (1,))])
    pids = pool.pids()
    assert pids and all(map(alive, pids))
    pool.close()
    assert not any(map(alive, pids)) and pool.pids() == []
    assert pool.run([("double", (1,))]) == [Outcome("ok", 2)]


def test_a_forked_child_gets_its_own_workers_and_leaves_the_parents_alone(pool):
    pool.run([("double", (1,)), ("double", (1,))])
    before = pool.pids()
    child = os.fork()
    if child == 0:
        good = pool.run([("double", (5,))]) == [Outcome("ok", 10)] and not set(pool.pids()) & set(before)
        pool.close()
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pool.pids() == before and all(map(alive, before))
    assert pool.run([("double", (6,))]) == [Outcome("ok", 12)]


def test_workers_end_when_their_parent_is_killed():
    code = (
        "import os, sys; from megatron_eureka.rewards.pool import VerifierPool; "
        f"pool = VerifierPool(1, 5.0, {str(HOSTILE)!r}); pool.run([('double', (1,))]); "
        "print(pool.pids()[0], flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=60)
    pid, deadline = int(done.stdout), time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)


def test_a_verifier_that_cannot_be_loaded_is_an_error_at_once(tmp_path):
    (tmp_path / "broken.py").write_text("import no_such_module\n")
    with pytest.raises(RuntimeError, match="do not start"):
        VerifierPool(1, 1.0, tmp_path / "broken.py").run([("x", ())])

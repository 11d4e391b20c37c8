"""Who has the GPU's memory when: recorded with fakes, since this order cannot run on a CPU."""

from types import SimpleNamespace

from megatron_eureka.engines.colocated import ColocatedEngine
from megatron_eureka.runs.timers import Timers
from megatron_eureka.train import grpo
from megatron_eureka.train.session import engine_turn


class Recorder:
    """Notes the calls of some methods in a shared list."""

    def __init__(self, calls: list, **names: str):
        for name, label in names.items():
            setattr(self, name, lambda *arguments, label=label, **_: calls.append((label, *arguments)))


def sleeping_engine(calls: list) -> ColocatedEngine:
    """An engine as it is between steps on a GPU, with a vLLM that only notes what it is told."""
    engine = ColocatedEngine.__new__(ColocatedEngine)
    engine._on_cpu, engine._asleep = False, {"weights", "kv_cache"}
    engine._llm = SimpleNamespace(
        sleep=lambda level: calls.append(("sleep", level)),
        wake_up=lambda tags: calls.append(("wake", *tags)),
    )
    engine.update_weights = lambda source: calls.append(("sync",))
    return engine


def session_of(calls: list) -> SimpleNamespace:
    policy = Recorder(calls, offload="trainer off-loads", restore="trainer restores")
    run = SimpleNamespace(policy=policy, timers=Timers(), weight_source=None)
    collector = Recorder(calls, collect="generate")
    return SimpleNamespace(run=run, engine=sleeping_engine(calls), collector=collector)


def test_a_step_hands_the_memory_over_and_back():
    calls = []
    session = session_of(calls)
    grpo.push_weights(session)
    grpo.collect(session, 1)
    assert calls == [
        ("wake", "weights"),
        ("sync",),
        ("trainer off-loads",),
        ("wake", "kv_cache"),
        ("generate", 1),
        ("sleep", 1),
        ("trainer restores",),
    ]


def test_weights_wake_too_when_no_sync_came_before():
    """After an evaluation the whole engine sleeps; the next step's rollouts need its weights as well."""
    calls = []
    session = session_of(calls)
    with engine_turn(session):
        pass
    with engine_turn(session):
        pass
    assert [call for call in calls if call[0] == "wake"] == [("wake", "weights", "kv_cache")] * 2


def test_an_engine_that_never_slept_is_not_woken():
    calls = []
    session = session_of(calls)
    session.engine._asleep = set()
    with engine_turn(session):
        pass
    assert [call[0] for call in calls] == ["trainer off-loads", "sleep", "trainer restores"]

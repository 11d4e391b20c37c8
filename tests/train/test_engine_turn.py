"""Who has the GPU's memory when: recorded with fakes, since this order cannot run on a CPU."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from megatron_eureka.engines.colocated import ColocatedEngine
from megatron_eureka.runs.timers import Timers
from megatron_eureka.train import grpo
from megatron_eureka.train.session import engine_turn, reference_turn


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


class Reference:
    """Notes when its weights come and go."""

    def __init__(self, calls: list):
        self.calls = calls

    @contextmanager
    def in_place(self):
        self.calls.append(("reference comes",))
        yield
        self.calls.append(("reference goes",))


class Run(SimpleNamespace):
    """Two steps, of which the first is followed by an evaluation."""

    def steps(self):
        for self.step in range(2):
            yield self.step + 1

    def is_due(self, step, every):
        return step == 1 and every > 0


def session_of(calls: list, reference: Reference | None = None) -> SimpleNamespace:
    policy = Recorder(calls, offload="trainer off-loads", restore="trainer restores")
    run = Run(policy=policy, timers=Timers(), weight_source=None, step=0)
    collector = Recorder(calls, collect="generate")
    return SimpleNamespace(run=run, engine=sleeping_engine(calls), collector=collector, reference=reference)


WAKE_ALL = ("wake", "weights", "kv_cache")
BACK = [("sleep", 1), ("trainer restores",)]


@pytest.mark.parametrize("has_reference", [True, False])
def test_the_loop_hands_the_memory_over_and_back(monkeypatch, has_reference):
    calls: list = []
    session = session_of(calls, Reference(calls) if has_reference else None)
    monkeypatch.setattr(grpo, "open_session", lambda config, source, name: session)
    monkeypatch.setattr(grpo, "lacks_evaluation", lambda session, step: True)
    for verb in ("compute_old_logprobs", "compute_reference_logprobs", "update_policy"):
        monkeypatch.setattr(grpo, verb, lambda step, verb=verb: calls.append((verb,)))
    for verb in ("make_batches", "compute_advantages", "log"):
        monkeypatch.setattr(grpo, verb, lambda step: None)
    monkeypatch.setattr(grpo, "evaluate", lambda session, step: calls.append(("evaluate", step)))
    monkeypatch.setattr(grpo, "save", lambda session, step: calls.append(("save", step)))
    monkeypatch.setattr(grpo, "finish", lambda session: calls.append(("finish",)))
    config = SimpleNamespace(
        train=SimpleNamespace(steps=2), evaluation=SimpleNamespace(every=1), checkpoint=SimpleNamespace(every=1)
    )
    grpo.train(config, None, "name")

    def turn(woken, *inside):
        return [("trainer off-loads",), woken, *inside, *BACK]

    def step(number, woken):
        reference = [("compute_reference_logprobs",)]
        if has_reference:
            reference = [("reference comes",), *reference, ("reference goes",)]
        trained = [("compute_old_logprobs",), *reference, ("update_policy",)]
        return [*turn(woken, ("generate", number)), *trained, ("wake", "weights"), ("sync",)]

    assert calls == [
        *turn(WAKE_ALL, ("evaluate", 0)),
        *step(1, WAKE_ALL),
        *turn(("wake", "kv_cache"), ("evaluate", 1)),
        ("save", 1),
        *step(2, WAKE_ALL),
        *turn(("wake", "kv_cache"), ("evaluate", 2)),
        ("finish",),
    ]


def test_weights_are_not_woken_twice_after_a_sync():
    calls: list = []
    session = session_of(calls)
    grpo.push_weights(SimpleNamespace(session=session))
    with engine_turn(session):
        pass
    assert [call for call in calls if call[0] == "wake"] == [("wake", "weights"), ("wake", "kv_cache")]


def test_an_engine_that_never_slept_is_not_woken():
    calls: list = []
    session = session_of(calls)
    session.engine._asleep = set()
    with engine_turn(session):
        pass
    assert [call[0] for call in calls] == ["trainer off-loads", "sleep", "trainer restores"]


def test_a_reference_takes_time_of_its_own_where_there_is_one():
    session = session_of([], Reference([]))
    with reference_turn(session):
        pass
    assert session.run.timers.read().keys() == {"timing_s/ref_logprob"}
    session.reference = None
    with reference_turn(session):
        pass
    assert session.run.timers.read() == {}

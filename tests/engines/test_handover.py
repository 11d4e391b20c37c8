"""Weights on their way into an engine: cut into parts, and the trainer's failures kept apart."""

import pytest
import torch

from megatron_eureka.engines import handover


def weights(*sizes):
    for index, size in enumerate(sizes):
        yield f"w{index}", torch.zeros(size, dtype=torch.uint8)


def test_small_tensors_travel_together_and_nothing_is_lost(monkeypatch):
    monkeypatch.setattr(handover, "PART_BYTES", 10)
    grouped = [[name for name, _ in part] for part in handover.parts(weights(4, 4, 4, 20, 1))]
    assert grouped == [["w0", "w1", "w2"], ["w3"], ["w4"]]
    assert list(handover.parts(weights())) == []


def test_what_the_source_raises_is_named_as_the_sources():
    def breaking():
        yield "w0", torch.zeros(1)
        raise MemoryError("no room for a bucket")

    stream = handover.guarded(breaking())
    assert next(stream)[0] == "w0"
    with pytest.raises(handover.SourceError, match="could not be gathered: MemoryError: no room for a bucket"):
        next(stream)


def test_what_the_consumer_raises_stays_as_it_is():
    with pytest.raises(KeyError):
        for _ in handover.guarded(weights(1, 1)):
            raise KeyError("the engine's own")

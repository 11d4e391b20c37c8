"""One step of the loop, as far as its verbs have come."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from megatron_eureka.rl.step_advantages import StepAdvantages
from megatron_eureka.rollout.collect import Collected
from megatron_eureka.train.batch import UpdateBatch
from megatron_eureka.train.session import Session


@dataclass
class Step:
    """What the verbs of `grpo.py` work on, each completing it; None or empty is what no verb has made yet."""

    session: Session
    number: int  # 1-based
    started: float = field(default_factory=time.perf_counter)  # seconds of an arbitrary clock
    collected: Collected | None = None
    batches: list[UpdateBatch] = field(default_factory=list)  # one an optimizer update; their rows are filled in turn
    images_asked: int = 0  # distinct images of this replica's rows
    advantages: StepAdvantages | None = None
    updates: list[dict[str, float]] = field(default_factory=list)  # metrics of each optimizer update

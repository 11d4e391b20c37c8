"""The learning rate as a function of the update's number: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from megatron_eureka.config.schema import Optimizer


def learning_rate(update: float, num_updates: int, options: Optimizer) -> float:
    """Linear warm-up to the peak, then the chosen decay to `min_lr_ratio` of it.

    Args:
        update: 0-based number of the update about to be made; the first one already has a positive rate. A step that
            makes fewer updates than planned gives each a larger share, so that the schedule ends with the run.
        num_updates: updates of the whole run as planned.
    """
    warmup = round(options.warmup_fraction * num_updates)
    if update < warmup:
        return options.lr * min(1.0, (update + 1) / warmup)
    progress = min(1.0, (update - warmup) / max(1, num_updates - warmup))
    remaining = {
        "constant": 1.0,
        "linear": 1.0 - progress,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
    }[options.schedule]
    floor = options.min_lr_ratio
    return options.lr * (remaining if options.schedule == "constant" else floor + (1.0 - floor) * remaining)

"""What becomes of responses that were cut off at the limit (`algorithm.truncated`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from megatron_eureka.types import Sample


def treatment(option: str, end_token_id: int | None) -> Callable[[Sample], Sample]:
    """What `option` makes of a truncated sample; done twice it is the same as once.

    Args:
        option: "keep", "mask" (no token is trained), "penalize" (all rewards are 0) or "overwrite" (the last token
            becomes the end token).
        end_token_id: for "overwrite".
    """
    overwrite = partial(_overwritten, end_token_id=end_token_id)
    return {"keep": _kept, "mask": _masked, "penalize": _penalized, "overwrite": overwrite}[option]


def _kept(sample: Sample) -> Sample:
    return sample


def _masked(sample: Sample) -> Sample:
    return replace(sample, trained=(False,) * len(sample.token_ids))


def _penalized(sample: Sample) -> Sample:
    return replace(sample, rewards=dict.fromkeys(sample.rewards, 0.0))


def _overwritten(sample: Sample, end_token_id: int) -> Sample:
    """The end token was not drawn, so the engine has no log-prob for it."""
    tokens, logprobs = (*sample.token_ids[:-1], end_token_id), (*sample.engine_logprobs[:-1], math.nan)
    return replace(sample, token_ids=tokens, engine_logprobs=logprobs)

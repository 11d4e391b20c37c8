"""Rewards that failed in a step: one warning for each source of the whole job, their share, and a stop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from megatron_eureka.log import is_main_process, logger
from megatron_eureka.rewards.failures import Failures


class Failing(Protocol):
    """What counts its failures (`rewards.Scorer`)."""

    def take_failures(self) -> list[Failures]: ...


def reported_failures(ranks: Sequence[Sequence[Failures]], step: int, on_failure: str) -> dict[str, float]:
    """Say what each source of rewards failed on since it was asked last.

    Args:
        ranks: what each scorer of the job says, see `take_failures`.
        on_failure: `reward.on_failure`: "stop" or "continue" where a source failed on every sample.

    Returns:
        the share of samples that failed, by source.

    Raises:
        RuntimeError: a source failed on every sample, and that is to stop the run; on every rank.
    """
    merged = [_merge(found) for found in zip(*ranks, strict=True)]
    lost = [found for found in merged if found.samples and found.failed == found.samples]
    if lost and on_failure == "stop":
        named = "; ".join(f"{found.source} failed on all {found.samples} samples: {found.reason}" for found in lost)
        raise RuntimeError(
            f"Step {step}: {named}. Training would go on with 0 for what it gives. Mend it and start the same command "
            "again, or set reward.on_failure=continue."
        )
    for found in merged:
        if found.failed and is_main_process():
            logger.warning("step %d: %s", step, _reported(found))
    return dict(zip(_names(merged), (found.failed / max(1, found.samples) for found in merged), strict=True))


def _merge(ranks: Sequence[Failures]) -> Failures:
    """One source's failures on all ranks; the reason is that of the first rank that has one."""
    return replace(
        ranks[0],
        lost=tuple(dict.fromkeys(name for found in ranks for name in found.lost)),
        samples=sum(found.samples for found in ranks),
        failed=sum(found.failed for found in ranks),
        reason=next((found.reason for found in ranks if found.reason), ""),
    )


def _reported(found: Failures) -> str:
    lost = ", ".join(found.lost) or "what it gives"
    return (
        f"{found.source} failed on {found.failed} of {found.samples} samples, where {lost} counts 0 and the other "
        f"rewards stand: {found.reason}"
    )


def _names(merged: Sequence[Failures]) -> list[str]:
    """Names for metrics; a second source of the same name gets its number."""
    seen: Counter[str] = Counter()
    names = []
    for found in merged:
        seen[found.name] += 1
        names.append(found.name if seen[found.name] == 1 else f"{found.name}_{seen[found.name]}")
    return names

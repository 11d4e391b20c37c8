"""Values of options that had another spelling: read as the new one for a release, with a warning."""

from __future__ import annotations

from typing import Any

from megatron_eureka.log import logger

RENAMED_VALUES = {("algorithm.truncated", "penalise"): "penalize"}  # (option, value before) -> value


def renamed(name: str, value: Any) -> Any:
    """The value as it is written now.

    Args:
        name: dotted name of the option.
    """
    new = RENAMED_VALUES.get((name, value)) if isinstance(value, str) else None
    if new is None:
        return value
    logger.warning("%s = %s is now written %s; the next release reads the new word alone", name, value, new)
    return new

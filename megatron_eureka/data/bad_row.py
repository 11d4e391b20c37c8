"""Rows that cannot be used: one error for all who read rows, and the account of those that were left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from megatron_eureka.log import logger

MAX_NAMED = 20  # rows left out that are named one by one


class BadRow(ValueError):
    """A row that cannot be used; `kind` says what is wrong with it: json, message, answer, image, ..."""

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind = kind


@contextmanager
def bad_row(kind: str, prefix: str = "") -> Iterator[None]:
    """Make of every ValueError in the block a `BadRow` of this kind, its reason behind the prefix."""
    try:
        yield
    except ValueError as error:
        raise BadRow(kind, f"{prefix}{error}") from error


class LeftOut(Counter[str]):
    """How many rows were left out, by kind; the first ones are named in the log."""

    def add(self, place: str, error: BadRow) -> None:
        """Count a row."""
        self[error.kind] += 1
        if self.total() <= MAX_NAMED:
            logger.warning("left out: %s: %s", place, error)

"""What is asked, as far as reading and comparing answers needs it, and what was read."""

from __future__ import annotations

from dataclasses import dataclass

# How an answer is read and compared: an option's letter; a whole number; a number with so many decimals; numbers in
# their order; words or a number; several answers in any order; whatever the gold is.
KINDS = ("choice", "integer", "float", "list", "text", "several", "free")


@dataclass(frozen=True)
class Question:
    """The kind of a question, and what is known of its answer besides the gold."""

    kind: str = "free"  # of KINDS
    choices: tuple[str, ...] = ()  # texts of the options A, B, ...; empty: not known
    precision: int | None = None  # decimals that count (kind "float")
    unit: str = ""  # that is asked for
    tolerances: tuple[float, ...] = ()  # absolute, one a gold; empty: as good as exact


@dataclass(frozen=True)
class Answer:
    """What counts as the answer of a response."""

    text: str  # as the response has it; "" if it has none
    how: str  # it was found: "tag", "boxed", "phrase", "option", "list", "number", "formula", "line" or "none"
    kind: str = "free"  # of the question that it was read for

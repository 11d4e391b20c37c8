"""A question of a benchmark, in one form for all benchmarks."""

from __future__ import annotations

from dataclasses import dataclass, field

# How an answer is compared; see `scoring`.
KINDS = ("choice", "integer", "float", "list", "text", "math", "answers", "reward")


class Malformed(ValueError):
    """A row that is no question; `kind` says what is wrong with it: row, question, answer, choices or picture."""

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True)
class BenchmarkItem:
    """One question, what is known of its answer, and the subsets that it counts in.

    Raises:
        Malformed: there is no answer to compare with.
    """

    id: str  # unique in its benchmark
    place: str  # where it was read, "file:row"
    messages: tuple[dict, ...]  # chat turns; image parts hold absolute paths
    gold: tuple[str, ...]  # one answer, or all of several (kind "answers"); a letter for a choice
    kind: str  # of KINDS
    choices: tuple[str, ...] = ()  # texts of the options A, B, ...; empty where the question's text has them
    precision: int | None = None  # decimals that count (kind "float")
    unit: str = ""  # that the question asks for
    tolerances: tuple[float, ...] = ()  # absolute, one an answer; empty: as good as exact
    query: str = ""  # the question as the benchmark's own script asks it
    subsets: dict[str, tuple[str, ...]] = field(default_factory=dict)  # axis -> values, such as task -> (geometry,)

    def __post_init__(self) -> None:
        if not self.gold or not all(self.gold):
            raise Malformed("answer", "there is no answer")
        assert self.kind in KINDS, f"{self.kind} is none of {KINDS}"

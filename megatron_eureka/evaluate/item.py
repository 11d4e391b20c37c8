"""A question of a benchmark, in one form for all benchmarks."""

from __future__ import annotations

from dataclasses import dataclass, field

from megatron_eureka.answers import Question


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
    gold: tuple[str, ...]  # one answer, or all of several (kind "several"); a letter for a choice
    question: Question = Question()  # its kind, and what is known besides the gold
    as_trained: bool = False  # it stands as in training, and gets training's system prompt
    query: str = ""  # the question as the benchmark's own script asks it
    subsets: dict[str, tuple[str, ...]] = field(default_factory=dict)  # axis -> values, such as task -> (geometry,)

    def __post_init__(self) -> None:
        if not self.gold or not all(self.gold):
            raise Malformed("answer", "there is no answer")

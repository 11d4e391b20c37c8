"""A question of a benchmark, in one form for all benchmarks, and what their rows have in common."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from megatron_eureka.answers import Question
from megatron_eureka.answers.choices import LETTERS
from megatron_eureka.answers.notation import to_ascii
from megatron_eureka.data.bad_row import BadRow
from megatron_eureka.datasets.tables import Row

_OPTION_LINE = re.compile(r"^[ \t]*\(?([A-J])[.:),][ \t]*(\S.*)$", re.MULTILINE)
_OPTION_MARK = re.compile(r"(?<![\w\\'∠△⊙])\(?([A-J])[.)]\s*(?=\S)")


@dataclass(frozen=True)
class BenchmarkItem:
    """One question, what is known of its answer, and the subsets that it counts in.

    Raises:
        BadRow: there is no answer to compare with.
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
            raise BadRow("answer", "there is no answer")


def question_of(row: Row) -> str:
    """The text under `question`.

    Raises:
        BadRow: there is none.
    """
    question = row.text("question")
    if not question:
        raise BadRow("question", "there is no question")
    return question


def subsets_of(values: Any, axes: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """What a mapping says under each of these names, one value or a list of them; {} where it is none."""
    values = values if isinstance(values, dict) else {}
    entries = {axis: values.get(axis) for axis in axes}
    lists = {axis: entry if isinstance(entry, list) else [entry] for axis, entry in entries.items()}
    texts = {axis: tuple(str(one).strip() for one in found if one not in (None, "")) for axis, found in lists.items()}
    return {axis: found for axis, found in texts.items() if found}


def user_turn(text: str, images: Mapping[str, str]) -> tuple[dict, ...]:
    """One user turn, images at their placeholders' first places; those without one come first, in their order.

    Args:
        text: the question.
        images: placeholder in the text -> source.
    """
    parts: list[dict] = [{"type": "image", "image": source} for name, source in images.items() if name not in text]
    for name in sorted((name for name in images if name in text), key=text.index):
        before, _, text = text.partition(name)
        parts += [*_text_part(before), {"type": "image", "image": images[name]}]
    return ({"role": "user", "content": parts + _text_part(text)},)


def _text_part(text: str) -> list[dict]:
    return [{"type": "text", "text": text.strip()}] if text.strip() else []


def options_in(question: str) -> tuple[str, ...]:
    """Texts of the options A, B, ... that stand in a question, on lines of their own or in one line; () if none do."""
    question = to_ascii(question)
    found = [(match.group(1), match.group(2).strip()) for match in _OPTION_LINE.finditer(question)]
    if len(found) > 1 and LETTERS.startswith("".join(letter for letter, _ in found)):
        return tuple(text for _, text in found)
    marks = list(_OPTION_MARK.finditer(question))
    starts = [number for number, mark in enumerate(marks) if mark.group(1) == "A"]
    marks = marks[starts[-1] :] if starts else []
    if len(marks) < 2 or not LETTERS.startswith("".join(mark.group(1) for mark in marks)):
        return ()
    ends = [*(mark.start() for mark in marks[1:]), len(question)]
    texts = [question[mark.end() : end].strip(" \t\n;,") for mark, end in zip(marks, ends, strict=True)]
    return tuple(text.split("\n")[0] for text in texts) if all(texts) else ()

"""MathVista (AI4Math/MathVista, testmini): parquet with pictures inside, or testmini.json with a folder of them.

The gold of a multiple-choice question is the text of the option; here it becomes its letter.
"""

from __future__ import annotations

from megatron_eureka.answers import Question
from megatron_eureka.data.layouts import CHOICE_HINT
from megatron_eureka.evaluate.benchmarks.files import Row
from megatron_eureka.evaluate.benchmarks.pictures import Pictures, user_turn, with_options
from megatron_eureka.evaluate.item import BenchmarkItem, Malformed

PATTERNS = ("data/testmini-*.parquet", "testmini-*.parquet", "testmini.json", "data/testmini.json")
AXES = ("task", "skills", "category", "context", "grade", "language", "source")
KINDS = {"text": "text", "integer": "integer", "float": "float", "list": "list"}


def read_item(row: Row, pictures: Pictures) -> BenchmarkItem:
    """One problem; see `BenchmarkItem` for what it raises."""
    question, answer, unit = row.text("question"), row.text("answer"), row.text("unit")
    if not question:
        raise Malformed("question", "there is no question")
    choices = row.texts("choices")
    kind, gold = _kind_and_gold(row, answer, choices)
    value = row.values.get("decoded_image") or row.values.get("image")
    source = pictures.source(value, row.roots)
    text = with_options(f"{question} (Unit: {unit})" if unit else question, choices)
    precision = _precision(row) if kind == "float" else None
    return BenchmarkItem(
        id=row.id("pid"),
        place=row.place,
        messages=user_turn(f"{text}\n{_hint(kind, precision)}".strip(), {"<image>": source}),
        gold=(gold,),
        question=Question(kind, choices, precision, unit),
        query=row.text("query"),
        subsets={"question_type": (row.text("question_type"),), "answer_type": (row.text("answer_type"),)}
        | _metadata(row.mapping("metadata")),
    )


def _kind_and_gold(row: Row, answer: str, choices: tuple[str, ...]) -> tuple[str, str]:
    if row.text("question_type") == "multi_choice":
        if answer not in choices:
            raise Malformed("choices", f"the answer {answer!r} is none of the options {list(choices)}")
        return "choice", chr(ord("A") + choices.index(answer))
    kind = KINDS.get(row.text("answer_type"))
    if kind is None:
        raise Malformed("answer", f"answer_type {row.text('answer_type')!r} is none of {', '.join(KINDS)}")
    return kind, answer


def _precision(row: Row) -> int:
    try:
        return int(float(row.text("precision") or 2))
    except (ValueError, OverflowError) as error:
        raise Malformed("answer", f"precision {row.text('precision')!r} is no number of decimals") from error


def _hint(kind: str, precision: int | None) -> str:
    return {
        "choice": CHOICE_HINT,
        "integer": "Answer with an integer, such as 1, 2, 3.",
        "float": f"Answer with a number with {precision} decimal place{'' if precision == 1 else 's'}.",
        "list": "Answer with a list, such as [1, 2, 3].",
        "text": "",
    }[kind]


def _metadata(values: dict) -> dict[str, tuple[str, ...]]:
    subsets = {}
    for axis in AXES:
        value = values.get(axis)
        entries = value if isinstance(value, list) else [value]
        if any(entries):
            subsets[axis] = tuple(str(entry) for entry in entries if entry)
    return subsets

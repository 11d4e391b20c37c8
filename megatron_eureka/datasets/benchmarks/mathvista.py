"""MathVista (AI4Math/MathVista, testmini): parquet with images inside, or testmini.json with a folder of them.

The gold of a multiple-choice question is the text of the option; here it becomes its letter.
"""

from __future__ import annotations

from megatron_eureka.answers import Question
from megatron_eureka.data.bad_row import BadRow
from megatron_eureka.datasets.benchmarks.item import BenchmarkItem, question_of, subsets_of, user_turn
from megatron_eureka.datasets.images import ImageFolder
from megatron_eureka.datasets.layouts import CHOICE_HINT, LETTERS, option_lines
from megatron_eureka.datasets.tables import Row

PATTERNS = ("data/testmini-*.parquet", "testmini-*.parquet", "testmini.json", "data/testmini.json")
AXES = ("task", "skills", "category", "context", "grade", "language", "source")
KINDS = ("text", "integer", "float", "list")


def read_item(row: Row, images: ImageFolder) -> BenchmarkItem:
    """One problem; see `BenchmarkItem` for what it raises."""
    question, answer, unit = question_of(row), row.text("answer"), row.text("unit")
    choices = row.texts("choices")
    kind, gold = _kind_and_gold(row, answer, choices)
    source = images.source(row.columns.get("decoded_image") or row.columns.get("image"), row.roots)
    precision = _precision(row) if kind == "float" else None
    text = "\n".join(
        [f"{question} (Unit: {unit})" if unit else question, *option_lines(choices), _hint(kind, precision)]
    )
    return BenchmarkItem(
        id=row.id("pid"),
        place=row.place,
        messages=user_turn(text, {"<image>": source}),
        gold=(gold,),
        question=Question(kind, choices, precision, unit),
        query=row.text("query"),
        subsets=subsets_of(row.columns, ("question_type", "answer_type"))
        | subsets_of(row.columns.get("metadata"), AXES),
    )


def _kind_and_gold(row: Row, answer: str, choices: tuple[str, ...]) -> tuple[str, str]:
    if row.text("question_type") == "multi_choice":
        if answer not in choices:
            raise BadRow("choices", f"the answer {answer!r} is none of the options {list(choices)}")
        return "choice", LETTERS[choices.index(answer)]
    kind = row.text("answer_type")
    if kind not in KINDS:
        raise BadRow("answer", f"answer_type {kind!r} is none of {', '.join(KINDS)}")
    return kind, answer


def _precision(row: Row) -> int:
    try:
        return int(float(row.text("precision") or 2))
    except (ValueError, OverflowError) as error:
        raise BadRow("answer", f"precision {row.text('precision')!r} is no number of decimals") from error


def _hint(kind: str, precision: int | None) -> str:
    return {
        "choice": CHOICE_HINT,
        "integer": "Answer with an integer, such as 1, 2, 3.",
        "float": f"Answer with a number with {precision} decimal place{'' if precision == 1 else 's'}.",
        "list": "Answer with a list, such as [1, 2, 3].",
        "text": "",
    }[kind]

"""MathVision (MathLLMs/MathVision, test): parquet with images inside, or test.jsonl with a folder of them.

A row has one image, even where its text names several (<image1>, <image2>): they stand together in it.
"""

from __future__ import annotations

from megatron_eureka.answers import Question
from megatron_eureka.data.bad_row import BadRow
from megatron_eureka.datasets.benchmarks.item import BenchmarkItem, question_of, subsets_of, user_turn
from megatron_eureka.datasets.images import ImageFolder
from megatron_eureka.datasets.layouts import CHOICE_HINT, LETTERS, option_lines
from megatron_eureka.datasets.tables import Row

PATTERNS = (
    "data/test-*.parquet",
    "test-*.parquet",
    "data/test.jsonl",
    "test.jsonl",
    "data/testmini-*.parquet",
    "testmini.jsonl",
)


def read_item(row: Row, images: ImageFolder) -> BenchmarkItem:
    """One problem; see `BenchmarkItem` for what it raises."""
    question, answer, choices = question_of(row), row.text("answer"), row.texts("options")
    if choices and (len(answer) != 1 or answer.upper() not in LETTERS[: len(choices)]):
        raise BadRow("answer", f"the answer {answer!r} is no letter of the {len(choices)} options")
    source = images.source(row.columns.get("decoded_image") or row.columns.get("image"), row.roots)
    # Options that repeat their letter are images or labels inside the image: no text to compare with.
    labels = choices == tuple(LETTERS[: len(choices)])
    text = "\n".join([question, *([] if labels else option_lines(choices)), *([CHOICE_HINT] if choices else [])])
    return BenchmarkItem(
        id=row.id("id"),
        place=row.place,
        messages=user_turn(text, {"<image1>": source}),
        gold=(answer.upper() if choices else answer,),
        question=Question("choice", () if labels else choices) if choices else Question(),
        subsets={"subject": ("unknown",)} | subsets_of(row.columns, ("subject", "level")),
    )

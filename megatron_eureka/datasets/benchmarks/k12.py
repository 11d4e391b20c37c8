"""K12 problems: a JSON list of id, question, answer and image_path with a folder of images, or MMK12's parquet."""

from __future__ import annotations

import re

from megatron_eureka.answers import Question
from megatron_eureka.answers.choices import LETTERS
from megatron_eureka.datasets.benchmarks.item import BenchmarkItem, options_in, question_of, subsets_of, user_turn
from megatron_eureka.datasets.images import ImageFolder
from megatron_eureka.datasets.layouts import CHOICE_HINT
from megatron_eureka.datasets.tables import Row

PATTERNS = ("data/test-*.parquet", "test-*.parquet", "test.json", "k12.json", "K12.json", "*.json", "*.jsonl")
_LETTER = re.compile(r"\(?([A-J])\)?\.?")


def read_item(row: Row, images: ImageFolder) -> BenchmarkItem:
    """One problem; see `BenchmarkItem` for what it raises."""
    question, answer = question_of(row), row.text("answer")
    value = row.columns.get("image_path") or row.columns.get("image")
    values = value if isinstance(value, list) else [value] if value else []
    # The first image may have the bare placeholder; several are numbered in the order of the list.
    names = ["<image>"] if len(values) == 1 else [f"<image{number}>" for number in range(1, len(values) + 1)]
    letter = _LETTER.fullmatch(answer)
    options = options_in(question) if letter else ()
    if letter and LETTERS.index(letter.group(1)) >= len(options):
        options = ()  # those that were found are not all of them
    text = f"{question}\n{CHOICE_HINT}" if letter else question
    return BenchmarkItem(
        id=row.id("id"),
        place=row.place,
        messages=user_turn(text, {n: images.source(v, row.roots) for n, v in zip(names, values, strict=True)}),
        gold=(letter.group(1) if letter else answer,),
        question=Question("choice", options) if letter else Question(),
        subsets=subsets_of(row.columns, ("subject",)),
    )

"""OlympiadBench (Hothan/OlympiadBench, OE_MM_maths_en_COMP): parquet with image_1 to image_9, or JSON with a folder.

The hub's questions name their images <image_1>, the authors' archive <img_3362> (images/3362.jpg). `final_answer` is
a list, mostly of one text, in which several answers stand with commas between them.
"""

from __future__ import annotations

import math
import re

from megatron_eureka.answers import Question
from megatron_eureka.answers.notation import normal
from megatron_eureka.answers.several import split_answers
from megatron_eureka.data.bad_row import BadRow
from megatron_eureka.datasets.benchmarks.item import BenchmarkItem, question_of, subsets_of, user_turn
from megatron_eureka.datasets.images import ImageFolder
from megatron_eureka.datasets.tables import Row

NAME = "OE_MM_maths_en_COMP"
PATTERNS = (f"**/{NAME}/*.parquet", f"**/{NAME}*.parquet", f"**/{NAME}.json", f"**/{NAME}.jsonl")
DEFAULT_TOLERANCE = 1e-8
MAX_IMAGES = 9
_PLACEHOLDER = re.compile(r"<(?:image_(\d{1,2})|img_(\d{1,9}))>")
AXES = ("subfield", "answer_type", "difficulty", "language", "modality")


def read_item(row: Row, images: ImageFolder) -> BenchmarkItem:
    """One problem; see `BenchmarkItem` for what it raises."""
    question, context = question_of(row), row.text("context")
    text = f"{context}\n\n{question}" if context else question
    gold = row.texts("final_answer")
    several = row.columns.get("is_multiple_answer") is True or len(gold) > 1
    if several:
        gold = tuple(part for answer in gold for part in split_answers(normal(answer)))
    unit = row.text("unit")
    return BenchmarkItem(
        id=row.id("id"),
        place=row.place,
        messages=user_turn(f"{text}\n{_hint(several, unit)}".strip(), _sources(row, text, images)),
        gold=gold,
        question=Question(
            "several" if several else "free",
            unit=unit.strip("$"),
            tolerances=_tolerances(row.text("error"), len(gold)),
        ),
        subsets=subsets_of(row.columns, AXES),
    )


def _sources(row: Row, text: str, images: ImageFolder) -> dict[str, str]:
    """Placeholder -> source of every image of the row; a placeholder without one makes it malformed."""
    values = {f"<image_{number}>": row.columns.get(f"image_{number}") for number in range(1, MAX_IMAGES + 1)}
    sources = {name: images.source(value, row.roots) for name, value in values.items() if value}
    for found in _PLACEHOLDER.finditer(text):
        name, number = found.group(0), found.group(2)
        if name not in sources and number is not None:
            sources[name] = images.source(f"{number}.jpg", row.roots)
        if name not in sources:
            raise BadRow("image", f"the question names {name}, which the row does not have")
    return sources


def _tolerances(text: str, num: int) -> tuple[float, ...]:
    """One tolerance an answer; a single one holds for all."""
    try:
        given = [float(part) if part.strip() else DEFAULT_TOLERANCE for part in text.split(",")]
    except ValueError as error:
        raise BadRow("answer", f"error {text!r} is no tolerance") from error
    if len(given) == 1:
        given *= num
    if len(given) != num or not all(math.isfinite(value) and value >= 0 for value in given):
        raise BadRow("answer", f"error {text!r} does not fit {num} answers")
    return tuple(given)


def _hint(several: bool, unit: str) -> str:
    hints = ["Give all answers, with commas between them."] if several else []
    return " ".join([*hints, f"Give the answer in {unit}, without writing the unit."] if unit else hints)

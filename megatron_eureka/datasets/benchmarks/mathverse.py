"""MathVerse (AI4Math/MathVerse, testmini): one problem in up to six versions, from mostly text to an image alone.

The text-only version has no image; in the vision-only one the question stands in the image.
"""

from __future__ import annotations

from megatron_eureka.answers import Question
from megatron_eureka.data.bad_row import BadRow
from megatron_eureka.datasets.benchmarks.item import BenchmarkItem, options_in, subsets_of, user_turn
from megatron_eureka.datasets.images import ImageFolder
from megatron_eureka.datasets.layouts import CHOICE_HINT
from megatron_eureka.datasets.tables import Row

PATTERNS = (
    "testmini.parquet",
    "data/testmini-*.parquet",
    "testmini-*.parquet",
    "testmini.json",
    "data/testmini.json",
    "testmini_text_only.parquet",
    "testmini_text_only.json",
)
IN_IMAGE = "Answer the question that is shown in the picture."


def read_item(row: Row, images: ImageFolder) -> BenchmarkItem:
    """One version of one problem; see `BenchmarkItem` for what it raises."""
    question, answer, version = row.text("question"), row.text("answer"), row.text("problem_version")
    has_image = bool(row.columns.get("image"))
    if not question and not has_image:
        raise BadRow("question", "there is neither a question nor an image")
    if not has_image and "vision" in version.casefold():
        raise BadRow("image", f"version {version!r} has no image")
    sources = {"<image>": images.source(row.columns["image"], row.roots)} if has_image else {}
    is_choice = row.text("question_type") == "multi-choice"
    if is_choice and (len(answer) != 1 or not "A" <= answer.upper() <= "J"):
        raise BadRow("answer", f"the answer {answer!r} of a multiple-choice question is no letter")
    text = question or IN_IMAGE
    return BenchmarkItem(
        id=row.id("sample_index"),
        place=row.place,
        messages=user_turn(f"{text}\n{CHOICE_HINT}" if is_choice else text, sources),
        gold=(answer.upper() if is_choice else answer,),
        question=Question("choice", options_in(row.text("question_for_eval") or question)) if is_choice else Question(),
        query=row.text("query_cot"),
        subsets={"version": (version,)}
        | subsets_of(row.columns.get("metadata"), ("subject", "subfield", "source"))
        | subsets_of(row.columns, ("question_type",)),
    )

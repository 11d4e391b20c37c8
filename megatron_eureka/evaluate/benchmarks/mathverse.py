"""MathVerse (AI4Math/MathVerse, testmini): one problem in up to six versions, from mostly text to a picture alone.

The text-only version has no picture; in the vision-only one the question stands in the picture.
"""

from __future__ import annotations

from megatron_eureka.answers import Question
from megatron_eureka.data.layouts import CHOICE_HINT
from megatron_eureka.evaluate.benchmarks.files import Row
from megatron_eureka.evaluate.benchmarks.pictures import Pictures, options_in, user_turn
from megatron_eureka.evaluate.item import BenchmarkItem, Malformed

PATTERNS = (
    "testmini.parquet",
    "data/testmini-*.parquet",
    "testmini-*.parquet",
    "testmini.json",
    "data/testmini.json",
    "testmini_text_only.parquet",
    "testmini_text_only.json",
)
IN_PICTURE = "Answer the question that is shown in the picture."


def read_item(row: Row, pictures: Pictures) -> BenchmarkItem:
    """One version of one problem; see `BenchmarkItem` for what it raises."""
    question, answer, version = row.text("question"), row.text("answer"), row.text("problem_version")
    has_picture = bool(row.values.get("image"))
    if not question and not has_picture:
        raise Malformed("question", "there is neither a question nor a picture")
    if not has_picture and "vision" in version.casefold():
        raise Malformed("picture", f"version {version!r} has no picture")
    sources = {"<image>": pictures.source(row.values["image"], row.roots)} if has_picture else {}
    is_choice = row.text("question_type") == "multi-choice"
    if is_choice and (len(answer) != 1 or not "A" <= answer.upper() <= "J"):
        raise Malformed("answer", f"the answer {answer!r} of a multiple-choice question is no letter")
    text = question or IN_PICTURE
    metadata = row.mapping("metadata")
    subsets = {"version": (version,)} | {
        axis: (str(metadata[axis]),) for axis in ("subject", "subfield", "source") if metadata.get(axis)
    }
    return BenchmarkItem(
        id=row.id("sample_index"),
        place=row.place,
        messages=user_turn(f"{text}\n{CHOICE_HINT}" if is_choice else text, sources),
        gold=(answer.upper() if is_choice else answer,),
        question=Question("choice", options_in(row.text("question_for_eval") or question)) if is_choice else Question(),
        query=row.text("query_cot"),
        subsets=subsets | {"question_type": (row.text("question_type"),)},
    )

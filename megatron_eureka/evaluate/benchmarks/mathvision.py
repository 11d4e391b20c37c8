"""MathVision (MathLLMs/MathVision, test): parquet with pictures inside, or test.jsonl with a folder of them.

A row has one picture, even where its text names several (<image1>, <image2>): they stand together in it.
"""

from __future__ import annotations

from megatron_eureka.answers import Question
from megatron_eureka.data.layouts import CHOICE_HINT
from megatron_eureka.evaluate.benchmarks.files import Row
from megatron_eureka.evaluate.benchmarks.pictures import Pictures, user_turn, with_options
from megatron_eureka.evaluate.item import BenchmarkItem, Malformed

PATTERNS = (
    "data/test-*.parquet",
    "test-*.parquet",
    "data/test.jsonl",
    "test.jsonl",
    "data/testmini-*.parquet",
    "testmini.jsonl",
)


def read_item(row: Row, pictures: Pictures) -> BenchmarkItem:
    """One problem; see `BenchmarkItem` for what it raises."""
    question, answer, choices = row.text("question"), row.text("answer"), row.texts("options")
    if not question:
        raise Malformed("question", "there is no question")
    if choices and (len(answer) != 1 or not 0 <= ord(answer.upper()) - ord("A") < len(choices)):
        raise Malformed("answer", f"the answer {answer!r} is no letter of the {len(choices)} options")
    source = pictures.source(row.values.get("decoded_image") or row.values.get("image"), row.roots)
    # Options that repeat their letter are pictures or labels inside the picture: no text to compare with.
    labels = all(choice == chr(ord("A") + number) for number, choice in enumerate(choices))
    text = question if labels else with_options(question, choices)
    level = row.text("level")
    return BenchmarkItem(
        id=row.id("id"),
        place=row.place,
        messages=user_turn(f"{text}\n{CHOICE_HINT}" if choices else text, {"<image1>": source}),
        gold=(answer.upper() if choices else answer,),
        question=Question("choice", () if labels else choices) if choices else Question(),
        subsets={"subject": (row.text("subject") or "unknown",)} | ({"level": (level,)} if level else {}),
    )

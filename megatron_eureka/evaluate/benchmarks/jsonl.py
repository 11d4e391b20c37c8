"""The training format: id, message (chat turns, or a JSON string of them), answer; scored as the reward scores it."""

from __future__ import annotations

from megatron_eureka.answers import question_of
from megatron_eureka.data.labels import bare_label
from megatron_eureka.data.messages import parse_prompt
from megatron_eureka.data.refusal import BadRow
from megatron_eureka.evaluate.benchmarks.files import Row
from megatron_eureka.evaluate.benchmarks.pictures import Pictures
from megatron_eureka.evaluate.item import BenchmarkItem, Malformed

PATTERNS = ("test.jsonl", "heldout.jsonl", "*.jsonl")


def read_item(row: Row, pictures: Pictures) -> BenchmarkItem:
    """One line; see `BenchmarkItem` for what it raises."""
    try:
        turns = parse_prompt(row.values.get("message"))
    except ValueError as error:
        raise Malformed("question", str(error)) from error
    try:
        answer = bare_label(row.text("answer"))
    except BadRow as error:
        raise Malformed("answer", str(error)) from error
    subsets = {axis: (str(value),) for axis, value in row.mapping("subsets").items() if value}
    return BenchmarkItem(
        id=row.id("id"),
        place=row.place,
        messages=tuple({**turn, "content": _content(turn["content"], row, pictures)} for turn in turns),
        gold=(answer,),
        question=question_of(answer),
        as_trained=True,
        subsets=subsets,
    )


def _content(content: str | list[dict], row: Row, pictures: Pictures) -> str | list[dict]:
    if isinstance(content, str):
        return content
    return [
        {"type": "image", "image": pictures.source(part["image"], row.roots)} if part["type"] == "image" else part
        for part in content
    ]

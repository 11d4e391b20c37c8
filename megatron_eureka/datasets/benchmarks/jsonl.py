"""The training format: id, message (chat turns, or a JSON string of them), answer; scored as the reward scores it."""

from __future__ import annotations

from megatron_eureka.answers import question_of
from megatron_eureka.data.bad_row import bad_row
from megatron_eureka.data.labels import bare_label
from megatron_eureka.data.messages import parse_prompt
from megatron_eureka.datasets.benchmarks.item import BenchmarkItem, subsets_of
from megatron_eureka.datasets.images import ImageFolder
from megatron_eureka.datasets.placing import with_sources
from megatron_eureka.datasets.tables import Row

PATTERNS = ("test.jsonl", "heldout.jsonl", "*.jsonl")


def read_item(row: Row, images: ImageFolder) -> BenchmarkItem:
    """One line; see `BenchmarkItem` for what it raises."""
    with bad_row("question"):
        turns = parse_prompt(row.columns.get("message"))
    answer, subsets = bare_label(row.text("answer")), row.columns.get("subsets")
    return BenchmarkItem(
        id=row.id("id"),
        place=row.place,
        messages=tuple(with_sources(turn, lambda source: images.source(source, row.roots)) for turn in turns),
        gold=(answer,),
        question=question_of(answer),
        as_trained=True,
        subsets=subsets_of(subsets, subsets if isinstance(subsets, dict) else ()),
    )

"""Responses and verdicts of a benchmark, one record an item."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from megatron_eureka.datasets.benchmarks import Benchmark
from megatron_eureka.datasets.benchmarks.item import BenchmarkItem
from megatron_eureka.evaluate.responses import Response
from megatron_eureka.evaluate.scoring import AnswerScorer
from megatron_eureka.files import write_atomically


@dataclass(frozen=True)
class SampleResult:
    """One response and what came of it."""

    response: str
    extracted: str
    correct: bool  # the judge's verdict where there is one, else the rules'
    by_rule: bool
    judged: bool | None = None  # None: not asked, or it failed
    truncated: bool = False


@dataclass(frozen=True)
class ItemResult:
    """One item and its samples; none where the item was refused, which counts as wrong."""

    item: BenchmarkItem
    samples: tuple[SampleResult, ...]
    refused: str = ""

    @property
    def num_correct(self) -> int:
        return sum(sample.correct for sample in self.samples)

    @property
    def accuracy(self) -> float:
        """Share of right samples, which estimates pass@1."""
        return self.num_correct / len(self.samples) if self.samples else 0.0

    def record(self) -> dict:
        """For the JSONL file: the first sample in plain sight, all of them under "samples" where there are several."""
        samples = [{**vars(sample)} for sample in self.samples]
        first = samples[0] if samples else {"response": "", "extracted": "", "correct": False}
        return {
            "id": self.item.id,
            "prompt": question_text(self.item),
            "images": [part["image"] for part in _parts(self.item) if part["type"] == "image"],
            "kind": self.item.question.kind,
            "gold": ", ".join(self.item.gold),
            **first,
            **({"samples": samples} if len(samples) > 1 else {}),
            **({"refused": self.refused} if self.refused else {}),
            "subsets": {axis: list(values) for axis, values in self.item.subsets.items()},
        }


def score_responses(
    benchmark: Benchmark, responses: Mapping[str, Response], scorer: AnswerScorer
) -> tuple[ItemResult, ...]:
    """A result for every item; those without a response count as wrong."""
    missing = Response("", (), (), "no response")
    given = [(item, responses.get(item.id, missing)) for item in benchmark.items]
    pairs = [(item, text) for item, response in given for text in response.responses]
    verdicts = iter(scorer.score(pairs))
    results = []
    for item, response in given:
        reasons = response.finish_reasons or ("",) * len(response.responses)
        samples = []
        for text, reason in zip(response.responses, reasons, strict=True):
            verdict = next(verdicts)
            samples.append(
                SampleResult(text, verdict.extracted, verdict.correct, verdict.correct, None, reason == "length")
            )
        results.append(ItemResult(item, tuple(samples), response.refused))
    return tuple(results)


def with_verdicts(results: Sequence[ItemResult], verdicts: Sequence[bool | None]) -> tuple[ItemResult, ...]:
    """The results with the judge's verdicts, one a sample in order; None leaves the rules' verdict."""
    rest = iter(verdicts)
    return tuple(
        replace(result, samples=tuple(_judged(sample, next(rest)) for sample in result.samples)) for result in results
    )


def _judged(sample: SampleResult, verdict: bool | None) -> SampleResult:
    return sample if verdict is None else replace(sample, correct=verdict, judged=verdict)


def write_results(path: Path, results: Sequence[ItemResult]) -> None:
    """One JSON line an item."""
    lines = "".join(json.dumps(result.record(), ensure_ascii=False) + "\n" for result in results)
    write_atomically(path, lines, errors="replace")


def question_text(item: BenchmarkItem) -> str:
    """The user's turns as text, images as <image>."""
    return "\n".join(part["text"] if part["type"] == "text" else "<image>" for part in _parts(item))


def _parts(item: BenchmarkItem) -> list[dict]:
    contents = [turn["content"] for turn in item.messages if turn["role"] == "user"]
    return [
        part
        for content in contents
        for part in ([{"type": "text", "text": content}] if isinstance(content, str) else content)
    ]

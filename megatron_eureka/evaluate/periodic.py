"""Benchmarks during training: asked of the policy through the engines that train it, scored by rule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_eureka.config.schema import Config
from megatron_eureka.data.images import ImageStore
from megatron_eureka.engines.protocol import Engine
from megatron_eureka.evaluate.generate import OpenBenchmark, ask, open_benchmark
from megatron_eureka.evaluate.plan import pass_ks, sampling, sources
from megatron_eureka.evaluate.results import score_responses, write_results
from megatron_eureka.evaluate.scoring import AnswerScorer
from megatron_eureka.evaluate.summary import summarize
from megatron_eureka.log import logger


def open_benchmarks(config: Config, processor: Any, store: ImageStore, folder: Path) -> tuple[OpenBenchmark, ...]:
    """Read `evaluation.benchmarks`; a collective over the whole job.

    Args:
        folder: its `images` is for images that stand in tables; all ranks see it.

    Raises:
        ValueError: a benchmark cannot be read, or the options do not fit each other.
    """
    if not config.evaluation.enabled:
        return ()
    sampling(config.evaluation, config.rollout), pass_ks(config.evaluation)
    images = folder / "images"
    return tuple(open_benchmark(config, source, processor, store, images) for source in sources(config.evaluation))


def evaluate_benchmarks(
    config: Config, engine: Engine, benchmarks: Sequence[OpenBenchmark], folder: Path
) -> dict[str, float]:
    """Ask everything and score it; a collective over the whole job.

    Args:
        folder: rank 0 writes NAME.jsonl there, an item a line.

    Returns:
        on rank 0 `evaluation/NAME/accuracy`, `pass_at_K`, `truncated` and `unanswered` (shares); else nothing.
    """
    metrics: dict[str, float] = {}
    reward = config.reward
    with AnswerScorer(reward.workers, reward.timeout_s, reward.compat) as scorer:
        for opened in benchmarks:
            responses = ask(config, engine, opened.questions, sampling(config.evaluation, config.rollout))
            if opened.benchmark is None:
                continue
            results = score_responses(opened.benchmark, {response.id: response for response in responses}, scorer)
            write_results(folder / f"{opened.name}.jsonl", results)
            summary = summarize(results, pass_ks(config.evaluation))
            metrics |= _metrics(opened.name, summary)
            rate = summary["accuracy"]
            logger.info(
                "%s: accuracy %.3f [%.3f, %.3f], %d items",
                *(opened.name, rate["value"], rate["low"], rate["high"], summary["items"]),
            )
    return metrics


def _metrics(name: str, summary: dict) -> dict[str, float]:
    rates = {f"pass_at_{k}": rate["value"] for k, rate in summary["pass_at_k"].items() if k != "1"}
    rates |= {"accuracy": summary["accuracy"]["value"], "unanswered": summary["unanswered"] / summary["items"]}
    rates["truncated"] = summary["truncated"] / max(1, summary["samples"])
    return {f"evaluation/{name}/{metric}": value for metric, value in rates.items()}

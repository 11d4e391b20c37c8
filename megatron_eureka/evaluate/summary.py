"""The numbers of an evaluation: rates with intervals, by subset, and two models side by side on the same items."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from megatron_eureka.evaluate.intervals import (
    mcnemar,
    mean_interval,
    paired_difference,
    paired_rates,
    pass_at_k,
    sign_flip,
)
from megatron_eureka.evaluate.results import ItemResult


def summarize(results: Sequence[ItemResult], pass_k: Sequence[int]) -> dict:
    """Rates of one model on one benchmark, JSON-ready.

    Raises:
        ValueError: an item has fewer samples than the largest k.
    """
    samples = [sample for result in results for sample in result.samples]
    summary = {
        "items": len(results),
        "samples": len(samples),
        "accuracy": rate([result.accuracy for result in results]),
        "pass_at_k": {str(k): rate([_pass_at(result, k) for result in results]) for k in pass_k},
        "unanswered": sum(not result.samples for result in results),
        "truncated": sum(sample.truncated for sample in samples),
        "without_answer": sum(not sample.extracted for sample in samples),
        "subsets": _subsets(results),
    }
    judged = [sample for sample in samples if sample.judged is not None]
    if judged:
        summary["judge"] = {
            "judged": len(judged),
            "left_to_rules": len(samples) - len(judged),
            "agreement": sum(sample.judged == sample.by_rule for sample in judged) / len(judged),
            "accuracy_by_rule": rate([_by_rule(result) for result in results]),
        }
    return summary


def rate(values: Sequence[float]) -> dict:
    """A mean over items and its 95 % interval."""
    low, high = mean_interval(values)
    return {"value": sum(values) / len(values), "low": low, "high": high}


def compare(before: Sequence[ItemResult], after: Sequence[ItemResult]) -> dict | None:
    """The paired difference of two models on the same items; None of fewer than two items.

    McNemar's exact test where every item has one sample, else a paired permutation test.
    """
    assert [result.item.id for result in before] == [result.item.id for result in after], "the items must be the same"
    if len(before) < 2:
        return None
    one, two = ([result.accuracy for result in results] for results in (before, after))
    won, lost = (sum(b > a for a, b in zip(*pair, strict=True)) for pair in ((one, two), (two, one)))
    binary = {*one, *two} <= {0.0, 1.0}
    difference, low, high = paired_rates(won, lost, len(one)) if binary else paired_difference(one, two)
    return {
        "difference": difference,
        "low": low,
        "high": high,
        "won": won,
        "lost": lost,
        "test": "McNemar, exact" if binary else "paired permutation",
        "p": mcnemar(one, two) if binary else sign_flip(one, two),
    }


def _subsets(results: Sequence[ItemResult]) -> dict[str, dict[str, dict]]:
    groups: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        for axis, values in result.item.subsets.items():
            for value in dict.fromkeys(values):
                groups[axis][value].append(result.accuracy)
    return {
        axis: {value: {"items": len(rates), **rate(rates)} for value, rates in sorted(values.items())}
        for axis, values in groups.items()
    }


def _pass_at(result: ItemResult, k: int) -> float:
    if not result.samples:
        return 0.0
    if len(result.samples) < k:
        raise ValueError(f"Item {result.item.id} has {len(result.samples)} samples, too few for pass@{k}.")
    return pass_at_k(len(result.samples), result.num_correct, k)


def _by_rule(result: ItemResult) -> float:
    return sum(sample.by_rule for sample in result.samples) / len(result.samples) if result.samples else 0.0

"""What a metric's name means, and docs/metrics.md: `python -m megatron_eureka.runs.metrics > docs/metrics.md`."""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby

from megatron_eureka.runs.metric_table import METRICS, RANKS, Metric

REDUCED = ("sum", "token mean", "sample mean", "max")  # of RANKS, those that a collective makes
REDUCE = {"mean": statistics.fmean, "max": max}
HEAD = """# Metrics

Generated from `megatron_eureka/runs/metric_table.py` by `python -m megatron_eureka.runs.metrics > docs/metrics.md`.
`metrics.jsonl` in a run's folder has a line a step, TensorBoard (and Weights & Biases, with `logging.wandb_project`)
the same numbers; evaluations have lines of their own under the step after which they took place. A name that is not
here cannot be written. Nats are natural logarithms.

How a number comes from the ranks of the job:
"""

UPDATES = """
A step may make several optimizer updates: `mean`, `max` and `first` say which of their values is written. Without an
entry the number is of the step as a whole.
"""


def find(name: str) -> Metric:
    """The line of the table that a name belongs to: its own, or its family's.

    Raises:
        ValueError: there is none.
    """
    metric = _find(name)
    if metric is None:
        raise ValueError(
            f"{name!r} is no metric: the table has no such name and no such family. Give it a line in "
            "megatron_eureka/runs/metric_table.py (unit, meaning, how it is reduced), and render docs/metrics.md again."
        )
    return metric


def check_names(names: Iterable[str]) -> None:
    """Refuse what the table does not know.

    Raises:
        ValueError: naming the first.
    """
    for name in names:
        find(name)


def reduction_of(name: str) -> str:
    """How numbers of this name from several rows or ranks become one: one of REDUCED.

    A name without "/" is none of a metric: what metrics are made of is added up.
    """
    how = find(name).over_ranks if "/" in name else "sum"
    assert how in REDUCED, f"{name} is not reduced over ranks: {how}"
    return how


def reduced(group: str) -> tuple[str, ...]:
    """The metrics of a group, such as "actor", that are reduced over what rows or ranks say."""
    of_group = [metric for metric in METRICS if metric.name.startswith(f"{group}/") and metric.over_ranks in REDUCED]
    return tuple(metric.name for metric in of_group if metric.over_updates != "first")  # that one says it again


def over_updates(updates: Sequence[dict[str, float]]) -> dict[str, float]:
    """A step's metrics from those of its updates, each reduced as the table says.

    Args:
        updates: one dictionary an update, of the same names.
    """
    metrics = {}
    for name in updates[0]:
        how = find(name).over_updates
        assert how in REDUCE, f"{name} is a number of a step, not of an update"
        metrics[name] = REDUCE[how]([update[name] for update in updates])
    first = {name: name.removesuffix("/first") for name in _names("first")}
    return metrics | {name: updates[0][of] for name, of in first.items() if of in metrics}


def render_metrics() -> str:
    """The page: a table for each group of names, in the order of the table."""
    lines = [HEAD, *(f"- `{name}`: {meaning}" for name, meaning in RANKS.items()), UPDATES.rstrip()]
    for group, metrics in groupby(METRICS, key=lambda metric: metric.name.partition("/")[0]):
        lines += [f"\n## {group}\n", "| metric | unit | meaning | ranks | updates |", "|---|---|---|---|---|"]
        for metric in metrics:
            cells = (f"`{metric.name}`", metric.unit, metric.meaning, metric.over_ranks, metric.over_updates)
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


@lru_cache(maxsize=1024)
def _find(name: str) -> Metric | None:
    """A name of its own comes before a family."""
    by_name = {metric.name: metric for metric in METRICS}
    return by_name.get(name) or next((metric for metric in METRICS if _pattern(metric).fullmatch(name)), None)


@lru_cache(maxsize=1024)
def _pattern(metric: Metric) -> re.Pattern:
    """A component or a source may have any name: users give them, and a service's is its address."""
    fixed = re.split(r"<\w+>", metric.name)
    return re.compile(".*".join(re.escape(text) for text in fixed), re.DOTALL)


def _names(over: str) -> list[str]:
    return [metric.name for metric in METRICS if metric.over_updates == over]


if __name__ == "__main__":
    sys.stdout.write(render_metrics())

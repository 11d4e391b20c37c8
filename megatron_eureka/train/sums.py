"""Numbers of rows and ranks on their way to metrics of the job, reduced as the table of metrics says."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from megatron_eureka.parallel.groups import device
from megatron_eureka.runs.metrics import reduction_of
from megatron_eureka.train.policy import Policy
from megatron_eureka.train.train_row import TrainRow

DIVISORS = {"token mean": "tokens", "sample mean": "samples"}


@dataclass(frozen=True)
class Sums:
    """A number for each of some metrics. `a + b` adds them up or keeps the larger one, as the table says of the metric.

    A mean is the sum it is made of until `metrics` divides it. A name without "/" belongs to no metric but to what
    metrics are made of, above all the divisors "tokens" and "samples"; such numbers are added up.
    """

    names: tuple[str, ...]  # in alphabetical order
    values: torch.Tensor  # [names] float64

    @classmethod
    def of(cls, numbers: Mapping[str, torch.Tensor | float]) -> Sums:
        """Of a row, or of this rank; tensors []."""
        names, where = tuple(sorted(numbers)), device()
        values = [torch.as_tensor(numbers[name], dtype=torch.float64, device=where).detach() for name in names]
        return cls(names, torch.stack(values))

    @classmethod
    def nothing(cls, names: Sequence[str]) -> Sums:
        """What changes nothing when it is added: of a rank that has no rows."""
        start = [-math.inf if reduction_of(name) == "max" else 0.0 for name in sorted(names)]
        return cls(tuple(sorted(names)), torch.tensor(start, dtype=torch.float64, device=device()))

    def __add__(self, other: Sums) -> Sums:
        assert self.names == other.names, f"numbers of other names: {set(self.names) ^ set(other.names)}"
        values, maxima = self.values + other.values, _places_of_maxima(self.names)
        values[maxima] = torch.maximum(self.values[maxima], other.values[maxima])
        return Sums(self.names, values)

    def over_ranks(self) -> Sums:
        """That of all ranks together, the same on each, on the host; a collective over the job."""
        values, maxima = self.values.clone(), _places_of_maxima(self.names)
        values[maxima] = 0.0
        dist.all_reduce(values)
        if maxima:
            largest = self.values[maxima]
            dist.all_reduce(largest, op=dist.ReduceOp.MAX)
            values[maxima] = largest
        return Sums(self.names, values.cpu())

    def numbers(self) -> dict[str, float]:
        """Each sum and each largest one by name."""
        return dict(zip(self.names, self.values.tolist(), strict=True))

    def metrics(self) -> dict[str, float]:
        """The metrics among the names; a mean over nothing is 0."""
        numbers = self.numbers()
        divisors = {name: DIVISORS.get(reduction_of(name)) for name in self.names if "/" in name}
        return {name: numbers[name] / max(numbers[by], 1.0) if by else numbers[name] for name, by in divisors.items()}


@functools.lru_cache(maxsize=64)
def _places_of_maxima(names: tuple[str, ...]) -> list[int]:
    return [place for place, name in enumerate(names) if reduction_of(name) == "max"]


def sum_over_job(policy: Policy, reports: Sequence[Sums], names: Sequence[str]) -> Sums:
    """What the rows of all replicas reported, together; a collective, known on every rank afterwards.

    Only one tensor-parallel rank of each last stage speaks: the others hold the same numbers.

    Args:
        reports: one a row on the last stage; anything elsewhere.
        names: of the reports, for ranks that have none.
    """
    return sum(reports if _speaks(policy) else (), start=Sums.nothing(names)).over_ranks()


def over_ranks(numbers: Mapping[str, float]) -> dict[str, float]:
    """Metrics of the job from each rank's own numbers, of the same names on all of them; a collective."""
    return Sums.of(numbers).over_ranks().metrics()


def sum_by_sample(
    policy: Policy, rows: Sequence[TrainRow], values: Sequence[torch.Tensor], num_samples: int
) -> torch.Tensor:
    """[num_samples] float32 sums of the values of each sample's tokens, over all replicas; the same on every rank.

    Args:
        values: [rows][targets] on the last stage; anything elsewhere.
    """
    sums = torch.zeros(num_samples, dtype=torch.float64, device=device())
    if _speaks(policy):
        for row, tokens in zip(rows, values, strict=True):
            sums.index_add_(0, row.sample_index.to(sums.device), tokens.double())
    dist.all_reduce(sums)
    return sums.float().cpu()


def _speaks(policy: Policy) -> bool:
    return policy.is_last_stage and dist.get_rank(policy.groups.tp) == 0

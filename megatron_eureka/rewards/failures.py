"""What a source of rewards says, read, and what it could not score: counted as it happens, told once a step."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from megatron_eureka.rewards.components import Components

MAX_REASON = 300  # characters
RESERVED = ("accuracy", "format", "overlong", "repetition", "total")


@dataclass
class Failures:
    """Samples that one source was asked about since the last `take`, and those that it gave no number for."""

    name: str  # short, for metrics
    source: str  # in full, for messages
    components: tuple[str, ...] = ()  # that it is known to give; they are 0 where it fails
    samples: int = 0
    failed: int = 0
    reason: str = ""  # of the first failure
    lost: tuple[str, ...] = ()  # components that were 0 for a failure
    counters: Counter[str] = field(default_factory=Counter)  # failed since the start, by "timeouts" and "errors"

    def lose(
        self, num_samples: int, reason: object, components: Iterable[str] | None = None, counter: str = "errors"
    ) -> list[Components]:
        """Count samples as failed, in some components or by default in all that are known; gives what they get."""
        self.failed += num_samples
        self.counters[counter] += num_samples
        self.reason = self.reason or str(reason)[:MAX_REASON]
        self.lost = tuple(dict.fromkeys((*self.lost, *(self.components if components is None else components))))
        return [dict.fromkeys(self.components, 0.0) for _ in range(num_samples)]

    def read(self, result: object, num_samples: int) -> list[Components]:
        """The components of each sample, of {component: [a number a sample]}.

        What is no finite number, such as a text, None and NaN, is 0 and a failure of its sample in that component.

        Raises:
            ValueError: no dict, a reserved name, or no list of num_samples values.
        """
        if not isinstance(result, dict):
            raise ValueError(f"{self.source} returned {type(result).__name__}, expected a dict of lists of numbers.")
        for name, values in result.items():
            if name in RESERVED:
                raise ValueError(f"{self.source} returned {name!r}, which is reserved. Rename it; {RESERVED} are ours.")
            if not isinstance(values, list) or len(values) != num_samples:
                got = f"{len(values)} values" if isinstance(values, list) else type(values).__name__
                raise ValueError(f"{self.source} returned {got} of {name!r} for {num_samples} samples; give a list.")
        self.components = tuple(result)
        return [
            self._read_one({name: values[index] for name, values in result.items()}) for index in range(num_samples)
        ]

    def _read_one(self, values: dict[str, object]) -> Components:
        missing = {name: value for name, value in values.items() if not _is_finite(value)}
        if missing:
            got = ", ".join(f"{name} is {value!r:.80}" for name, value in missing.items())
            self.lose(1, f"{got}, expected a finite number", missing)
        return {name: 0.0 if name in missing else float(value) for name, value in values.items()}

    def take(self) -> Failures:
        """What has been counted; counting begins again."""
        taken = replace(self)
        self.samples, self.failed, self.reason, self.lost = 0, 0, "", ()
        return taken


def _is_finite(value: object) -> bool:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer beyond the range of floats
        return False

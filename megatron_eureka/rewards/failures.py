"""What a source of rewards could not score: counted as it happens, told once a step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

MAX_REASON = 300  # characters


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

    def lose(self, num_samples: int, reason: object, components: Iterable[str] | None = None) -> None:
        """Count samples as failed, in some components or by default in all that are known."""
        self.failed += num_samples
        self.reason = self.reason or str(reason)[:MAX_REASON]
        self.lost = tuple(dict.fromkeys((*self.lost, *(self.components if components is None else components))))

    def lose_missing(self, result: dict[str, list], scores: Sequence[dict[str, float]]) -> int:
        """Count samples that lack a finite number in some component: a text, None and NaN are none.

        Args:
            result: component -> what came for each sample.
            scores: of each sample the finite numbers.

        Returns:
            how many there are.
        """
        lacking = [index for index, score in enumerate(scores) if len(score) < len(result)]
        for index in lacking:
            missing = {name: values[index] for name, values in result.items() if name not in scores[index]}
            got = ", ".join(f"{name} is {value!r:.80}" for name, value in missing.items())
            self.lose(1, f"{got}, expected a finite number", missing)
        return len(lacking)

    def take(self) -> Failures:
        """What has been counted; counting begins again."""
        taken = replace(self)
        self.samples, self.failed, self.reason, self.lost = 0, 0, "", ()
        return taken

"""What time is spent on."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator


class Timers:
    """Wall-clock seconds by name, summed until read."""

    def __init__(self):
        self._seconds: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += time.perf_counter() - start

    def seconds(self, name: str) -> float:
        """Seconds under a name since the last reading."""
        return self._seconds[name]

    def read(self) -> dict[str, float]:
        """Seconds since the last reading, as `timing_s/NAME`."""
        seconds = {f"timing_s/{name}": value for name, value in self._seconds.items()}
        self._seconds.clear()
        return seconds

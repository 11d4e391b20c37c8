"""Work on single pairs in a thread, as they come, while its caller does something else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

Pair = tuple[str, str]


class Ahead:
    """Scores of pairs that were announced before anyone asks for them.

    Args:
        score: what is done with pairs, a list at a time: all that came while it worked on those before.
    """

    def __init__(self, score: Callable[[Sequence[Pair]], Sequence[float]]):
        self._score = score
        self._lock = threading.Lock()
        self._waiting: list[Pair] = []
        self._scores: dict[Pair, float] = {}
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="rewards")
        self._work: Future | None = None  # None: nobody looks at `_waiting`

    def add(self, pair: Pair) -> None:
        """Announce a pair; returns at once."""
        with self._lock:
            self._waiting.append(pair)
            if self._work is None:
                self._work = self._executor.submit(self._drain)

    def take(self) -> dict[Pair, float]:
        """The scores of all pairs that were announced since the last call; waits for those that are not done.

        Raises:
            what scoring raised.
        """
        with self._lock:
            work = self._work
        try:
            if work is not None:
                work.result()
        finally:
            with self._lock:
                self._work, scores, self._scores = None, self._scores, {}
                self._waiting.clear()
        return scores

    def close(self) -> None:
        """End the thread after what it is at."""
        self._executor.shutdown(cancel_futures=True)

    def _drain(self) -> None:
        while True:
            with self._lock:
                pairs = [pair for pair in dict.fromkeys(self._waiting) if pair not in self._scores]
                self._waiting = []
                if not pairs:
                    self._work = None
                    return
            scores = self._score(pairs)
            with self._lock:
                self._scores |= dict(zip(pairs, scores, strict=True))

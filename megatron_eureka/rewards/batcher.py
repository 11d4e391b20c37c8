"""Work in a thread beside its caller, on all that has come since it began with what came before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Calls a function with lists of items as they come, one call at a time.

    Args:
        work: gives a result for each item of a list; what it raises is raised by each of their futures.
    """

    def __init__(self, work: Callable[[Sequence[Item]], Sequence[Result]]):
        self._work = work
        self._lock = threading.Lock()
        self._waiting: list[tuple[Item, Future[Result]]] = []
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="rewards")

    def submit(self, item: Item) -> Future[Result]:
        """Hand an item over; returns at once.

        Raises:
            RuntimeError: it has been closed.
        """
        future: Future[Result] = Future()
        with self._lock:
            self._waiting.append((item, future))
            if len(self._waiting) == 1:  # else the call that takes the first one takes this one too
                self._executor.submit(self._take)
        return future

    def close(self) -> None:
        """End the thread after what it is at; what waits is cancelled."""
        self._executor.shutdown(cancel_futures=True)
        with self._lock:
            for _, future in self._waiting:
                future.cancel()

    def _take(self) -> None:
        with self._lock:
            taken, self._waiting = self._waiting, []
        try:
            results = self._work([item for item, _ in taken])
            for (_, future), result in zip(taken, results, strict=True):
                future.set_result(result)
        except Exception as error:  # whatever the work raises belongs to those who wait for it
            for _, future in taken:
                if not future.done():
                    future.set_exception(error)

"""An event loop in a thread of its own, for callers that are no coroutines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any


class LoopThread:
    """Runs coroutines beside its caller.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str):
        self._lock, self.closed = threading.Lock(), False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def submit(self, coroutine: Coroutine) -> Future[Any]:
        """Start a coroutine; `close` cancels it.

        Raises:
            RuntimeError: the loop has been closed.
        """
        with self._lock:
            if self.closed:
                coroutine.close()
                raise RuntimeError("The event loop has been closed.")
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def close(self, last: Callable[[], Awaitable[None]]) -> None:
        """Cancel what is under way, run a last coroutine, and end the thread; a second time does nothing."""
        with self._lock:
            closed, self.closed = self.closed, True
        if not closed:
            asyncio.run_coroutine_threadsafe(self._end(last), self._loop).result()
            self.stop()
            self._thread.join()
            self._loop.close()

    def stop(self) -> None:
        """End the loop without waiting for anything."""
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _end(self, last: Callable[[], Awaitable[None]]) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await last()

"""Verifications in processes that can be killed: each is bounded in time, and nothing a text does stops the run.

Workers are fresh interpreters (not forks), so they are safe to start beside an initialised process group and inherit
neither its memory nor its threads.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import weakref
from asyncio.subprocess import PIPE, Process
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_eureka.log import logger
from megatron_eureka.rewards.loop_thread import LoopThread

WORKER = Path(__file__).with_name("worker.py")
VERIFIER = Path(__file__).with_name("accuracy.py")
PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])  # for verifiers that import the package
START_LIMIT_S = 120.0
GRACE_TURNS = 10  # of the event loop, to take what is there
MAX_FAILED_STARTS = 3
MAX_LOGGED = 20
MAX_LINE_BYTES = 1 << 30  # of a result
MEMORY_BYTES = 4 << 30  # 9^9^9^9 must end in an error, not in the machine's last byte


@dataclass(frozen=True)
class Outcome:
    """What came of one call."""

    status: str  # "ok", "timeout" or "error"
    value: Any = None  # the result, or the error's text


def worker_environment() -> dict[str, str]:
    """This process's environment, with the package importable."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (os.getenv("PYTHONPATH"), PACKAGE_PARENT)))}


class VerifierPool:
    """Calls functions of one Python file in worker processes.

    Args:
        workers: number of processes; they start at the first calls.
        timeout_s: limit of one call; the worker is then killed and replaced.
        verifier: the file whose functions are called.
        memory_bytes: address space of a process; 0: no limit.
        log_failures: say so of the first calls that failed; else whoever calls tells.
    """

    def __init__(
        self,
        workers: int,
        timeout_s: float,
        verifier: str | Path = VERIFIER,
        memory_bytes: int = MEMORY_BYTES,
        log_failures: bool = True,
    ):
        self.counters = {"timeouts": 0, "errors": 0}
        self._num_workers = workers
        self._timeout_s = timeout_s
        self._verifier = str(verifier)
        self._memory_bytes = memory_bytes
        self._log_failures = log_failures
        self._lock = threading.Lock()
        self._loop: LoopThread | None = None

    def run(self, calls: Sequence[tuple[str, tuple]]) -> list[Outcome]:
        """Call `function(*arguments)` for each (function, arguments), in any order; outcomes in the order of calls.

        Raises:
            RuntimeError: the worker program does not start, or `close` was called meanwhile.
        """
        return self.submit(self.call_all(calls)).result()

    def submit(self, work: Coroutine) -> Future[Any]:
        """Start a coroutine, which may use `call_all`, beside the caller; its result raises as that of `run`."""
        with self._lock:
            if self._loop is None or self._pid != os.getpid():  # after a fork the parent's workers are not ours
                self._begin()
            return self._loop.submit(_naming_the_end(work))

    def _begin(self) -> None:
        self._pid, self._loop = os.getpid(), LoopThread("verifier")
        self._places = asyncio.Semaphore(self._num_workers)
        self._processes: list[Process] = []
        self._idle: list[Process] = []
        self._failed_starts = 0  # in a row
        weakref.finalize(self, _abandon, self._loop, self._processes, self._pid)

    async def call_all(self, calls: Sequence[tuple[str, tuple]]) -> list[Outcome]:
        """As `run`, in a coroutine that was given to `submit`."""
        return await asyncio.gather(*(self._call(call) for call in calls))

    def close(self) -> None:
        """End all workers, also in the middle of a call of another thread. A later call starts new ones."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None and self._pid == os.getpid():
            loop.close(self._end_all)

    def pids(self) -> list[int]:
        """Process ids of the running workers."""
        return [process.pid for process in self._processes] if self._loop else []

    async def _call(self, call: tuple[str, tuple]) -> Outcome:
        async with self._places:
            outcome = await self._try(call) or await self._try(call)  # it may have been killed for a reason of its own
        outcome = outcome or Outcome("error", "the process died twice")
        if outcome.status != "ok":
            counter = "timeouts" if outcome.status == "timeout" else "errors"
            self.counters[counter] += 1
            if self._log_failures and self.counters[counter] <= MAX_LOGGED:
                logger.warning("Verification failed (%s) and scores 0: %.100r", outcome.value, call[1])
        return outcome

    async def _try(self, call: tuple[str, tuple]) -> Outcome | None:
        """What comes of a call in one process; None where the process dies."""
        process = await self._take()
        asked = asyncio.ensure_future(_ask(process, call))
        await asyncio.wait({asked}, timeout=self._timeout_s)
        for _ in range(0 if asked.done() else GRACE_TURNS):  # an answer may have come while this loop had no turn
            await asyncio.sleep(0)
        if not asked.done():
            asked.cancel()
            await self._end(process)
            return Outcome("timeout", f"over {self._timeout_s} s")
        try:
            outcome = asked.result()
        except (OSError, EOFError):
            await self._end(process)
            return None
        self._idle.append(process)
        return outcome

    async def _take(self) -> Process:
        """A process that waits for a call."""
        while self._idle:
            process = self._idle.pop()
            if process.returncode is None:
                return process
            await self._end(process)  # it was killed meanwhile
        while self._failed_starts < MAX_FAILED_STARTS:
            # In a session of its own: Ctrl-C is for the trainer, which then closes its workers.
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, str(WORKER), self._verifier, str(self._memory_bytes)),
                **{"stdin": PIPE, "stdout": PIPE, "env": worker_environment()},
                **{"start_new_session": True, "limit": MAX_LINE_BYTES},
            )
            self._processes.append(process)
            try:
                async with asyncio.timeout(START_LIMIT_S):
                    await _receive(process)
            except (TimeoutError, EOFError):
                self._failed_starts += 1
                await self._end(process)
            else:
                self._failed_starts = 0
                return process
        raise RuntimeError(f"Verifier processes do not start: {sys.executable} {WORKER} {self._verifier}.")

    async def _end(self, process: Process) -> None:
        """Kill a process and wait for its end; it holds nothing worth saving."""
        _kill(process)
        await process.wait()
        self._processes.remove(process)

    async def _end_all(self) -> None:
        for process in list(self._processes):
            await self._end(process)


async def _naming_the_end(work: Coroutine) -> Any:
    try:
        return await work
    except asyncio.CancelledError:
        raise RuntimeError("The verifier processes were ended while they were at work.") from None


async def _ask(process: Process, call: tuple[str, tuple]) -> Outcome:
    process.stdin.write(json.dumps(call).encode() + b"\n")
    await process.stdin.drain()
    return Outcome(*await _receive(process))


async def _receive(process: Process) -> tuple[str, Any]:
    """The next line of a process; EOFError where it has died."""
    line = await process.stdout.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    status, value = json.loads(line)
    return status, value


def _kill(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()


def _abandon(loop: LoopThread, processes: list[Process], pid: int) -> None:
    """End what is left of a pool that nobody closed."""
    if os.getpid() == pid and not loop.closed:  # a forked child must not kill its parent's workers
        for process in processes:
            _kill(process)
        loop.stop()

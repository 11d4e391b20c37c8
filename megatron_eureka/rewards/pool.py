"""Verifications in processes that can be killed: each is bounded in time, and nothing a text does stops the run.

Workers are fresh interpreters (not forks), so they are safe to start beside an initialised process group and inherit
neither its memory nor its threads.
"""

from __future__ import annotations

import json
import os
import select
import selectors
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_eureka.log import logger

WORKER = Path(__file__).with_name("worker.py")
VERIFIER = Path(__file__).with_name("accuracy.py")
PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])  # for verifiers that import the package
START_LIMIT_S = 120.0
MAX_FAILED_STARTS = 3
MAX_LOGGED = 20
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
        workers: number of processes; they start at the first call.
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
        self._workers: list[_Worker] = []
        self._pid = os.getpid()
        self._closing = False
        self._finalizer = weakref.finalize(self, _stop_all, self._workers, self._pid)

    def run(self, calls: Sequence[tuple[str, tuple]]) -> list[Outcome]:
        """Call `function(*arguments)` for each (function, arguments), in any order; outcomes in the order of calls.

        Raises:
            RuntimeError: the worker program does not start, or `close` was called meanwhile.
        """
        with self._lock:
            if self._pid != os.getpid():  # after a fork the parent's workers are not ours
                self._workers, self._pid = [], os.getpid()
                self._finalizer = weakref.finalize(self, _stop_all, self._workers, self._pid)
            job = _Job(calls)
            while job.waiting or any(worker.call is not None for worker in self._workers):
                if self._closing:
                    raise RuntimeError("The verifier processes were ended while they were at work.")
                while len(self._workers) < min(self._num_workers, len(calls)):
                    self._workers.append(_Worker(self._verifier, self._memory_bytes))
                for worker in self._workers:
                    if worker.ready and worker.call is None and job.waiting:
                        worker.send(job.waiting.popleft(), calls, self._timeout_s)
                for worker in self._wait():
                    self._settle(worker, job)
            return job.outcomes

    def close(self) -> None:
        """End all workers, also in the middle of a call of another thread. A later call starts new ones."""
        self._closing = True
        if self._pid == os.getpid():  # a call under way sees them end, and gives the lock back
            for worker in list(self._workers):
                worker.process.kill()
        with self._lock:
            _stop_all(self._workers, self._pid)
            self._closing = False

    def pids(self) -> list[int]:
        """Process ids of the running workers."""
        return [worker.process.pid for worker in self._workers]

    def _wait(self) -> list[_Worker]:
        """Wait for a line, an end or a time limit; return the workers that need a decision."""
        now = time.monotonic()
        deadlines = [worker.deadline for worker in self._workers if worker.deadline is not None]
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
            readable = {key.data for key, _ in selector.select(max(0.0, min(deadlines, default=now) - now))}
        for worker in readable:
            worker.receive()
        now = time.monotonic()
        return [worker for worker in self._workers if worker.ended or worker.result or worker.late(now)]

    def _settle(self, worker: _Worker, job: _Job) -> None:
        """Book a result, or an end without one: a worker over its time, or one that died."""
        call, result = worker.call, worker.result
        worker.call, worker.result, worker.deadline = None, None, None
        if result is None:
            self._forget(worker)
            if not worker.ready:
                job.failed_starts += 1
                if job.failed_starts >= MAX_FAILED_STARTS:
                    raise RuntimeError(f"Verifier processes do not start: {sys.executable} {WORKER} {self._verifier}.")
            if call is None:
                return
            if worker.ended and call not in job.retried:  # it may have been killed for a reason of its own
                job.retried.add(call)
                job.waiting.append(call)
                return
            result = ("error", "the process died twice") if worker.ended else ("timeout", f"over {self._timeout_s} s")
        status, value = result
        job.outcomes[call] = Outcome(status, value)
        if status != "ok":
            counter = "timeouts" if status == "timeout" else "errors"
            self.counters[counter] += 1
            if self._log_failures and self.counters[counter] <= MAX_LOGGED:
                logger.warning("Verification failed (%s) and scores 0: %.100r", value, job.calls[call][1])

    def _forget(self, worker: _Worker) -> None:
        worker.stop()
        self._workers.remove(worker)


class _Job:
    """The state of one `run`."""

    def __init__(self, calls: Sequence[tuple[str, tuple]]):
        self.calls = calls
        self.outcomes: list[Outcome | None] = [None] * len(calls)
        self.waiting = deque(range(len(calls)))
        self.retried: set[int] = set()
        self.failed_starts = 0


class _Worker:
    """One process and the call it works on."""

    def __init__(self, verifier: str, memory_bytes: int):
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), verifier, str(memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=worker_environment(),
            start_new_session=True,  # Ctrl-C is for the trainer, which then closes its workers
        )
        os.set_blocking(self.process.stdin.fileno(), False)
        self.ready = False
        self.ended = False
        self.call: int | None = None  # index of the running call
        self.result: tuple[str, Any] | None = None
        self.deadline: float | None = time.monotonic() + START_LIMIT_S
        self._received = b""

    def send(self, call: int, calls: Sequence[tuple[str, tuple]], timeout_s: float) -> None:
        """Hand a call over. A process that does not take it ends or times out like one that does not answer."""
        self.call, self.deadline = call, time.monotonic() + timeout_s
        data = memoryview(json.dumps(calls[call]).encode() + b"\n")
        descriptor = self.process.stdin.fileno()
        while data and not self.late(time.monotonic()):
            try:
                if select.select([], [descriptor], [], max(0.0, self.deadline - time.monotonic()))[1]:
                    data = data[os.write(descriptor, data) :]
            except BrokenPipeError:
                self.ended = True
                return

    def receive(self) -> None:
        """Take what the process has written; the first line says that it is ready, each further one is a result."""
        data = os.read(self.process.stdout.fileno(), 1 << 16)
        self.ended = not data
        self._received += data
        line, newline, rest = self._received.partition(b"\n")
        if newline:
            self._received = rest
            status, value = json.loads(line)
            if status == "ready":
                self.ready, self.deadline = True, None
            else:
                self.result = (status, value)

    def late(self, now: float) -> bool:
        return self.deadline is not None and now > self.deadline

    def stop(self) -> None:
        """Kill the process and wait for its end; it holds nothing worth saving."""
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def _stop_all(workers: list[_Worker], pid: int) -> None:
    if os.getpid() != pid:  # a forked child must not kill its parent's workers
        return
    while workers:
        workers.pop().stop()

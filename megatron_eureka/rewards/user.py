"""Rewards that users bring: functions of a Python file, called with a batch in a process that can be killed."""

from __future__ import annotations

import ast
import asyncio
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

from megatron_eureka.rewards.components import Batch, Components
from megatron_eureka.rewards.failures import Failures
from megatron_eureka.rewards.pool import START_LIMIT_S, WORKER, Outcome, VerifierPool, worker_environment

MAX_TIMEOUTS = 3  # of single samples, after which nothing that waits is tried


class UserReward:
    """The function behind `path/to/file.py:name`: (prompts, responses, labels) -> {component: [a number a sample]}.

    A call that raises or runs past its time is repeated sample by sample; the samples that fail again score nothing
    for this function and are counted, and so do those that wait behind a function that keeps on hanging. What is no
    finite number (a text, None, NaN) is a failure for that component of its sample.

    Args:
        reference: `path/to/file.py:name`.
        timeout_s: limit of a call.

    `failures` has the samples that scored nothing. Close it to end its process and thread.

    Raises:
        ValueError: the reference has another form, the file cannot be read, or the function is missing.
    """

    def __init__(self, reference: str, timeout_s: float):
        file, self.name = find_function(reference)
        self.failures = Failures(self.name, f"reward function {reference}")
        self._pool = VerifierPool(1, timeout_s, file, memory_bytes=0, log_failures=False)
        self._turn = asyncio.Lock()
        self._open = 0  # batches that wait or are under way
        self._timeouts = 0  # of their single samples

    def submit(self, batch: Batch) -> Future[list[Components]]:
        """Call the function with a batch beside whatever the caller does until it asks for the result.

        Returns:
            components of each sample; those that are known are 0 where the function failed. Raises ValueError for a
            result of a wrong form, which no retry mends.
        """
        return self._pool.submit(self._score(batch))

    def close(self) -> None:
        """End the process, also in the middle of a call, and the thread."""
        self._pool.close()

    async def _score(self, batch: Batch) -> list[Components]:
        self._timeouts = self._timeouts if self._open else 0
        self._open += 1
        self.failures.samples += len(batch.responses)
        try:
            async with self._turn:
                outcome = await self._call(batch)
                if outcome.status == "ok":
                    return self.failures.read(outcome.value, len(batch.responses))
                return [score for sample in batch.samples() for score in await self._score_alone(sample)]
        finally:
            self._open -= 1

    async def _score_alone(self, sample: Batch) -> list[Components]:
        outcome = await self._call(sample)
        if outcome.status == "ok":
            return self.failures.read(outcome.value, 1)
        late = outcome.status == "timeout"
        self._timeouts += late
        return self.failures.lose(1, outcome.value, counter="timeouts" if late else "errors")

    async def _call(self, batch: Batch) -> Outcome:
        if self._timeouts >= MAX_TIMEOUTS:
            return Outcome("timeout", "not tried, for it kept on hanging")
        (outcome,) = await self._pool.call_all([(self.name, (batch.prompts, batch.responses, batch.labels))])
        return outcome


def find_function(reference: str) -> tuple[Path, str]:
    """The file and the name of `path/to/file.py:name`, without running the file: it runs in the worker alone.

    Raises:
        ValueError: the reference has another form, the file cannot be read, or the function is missing.
    """
    file, colon, name = reference.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise ValueError(f"reward.functions: {reference!r} is not of the form path/to/file.py:name.")
    path = Path(file).resolve()
    if not path.is_file():
        raise ValueError(f"reward.functions: {path} is missing. Paths start from the working directory.")
    try:
        body = ast.parse(path.read_text("utf-8")).body
    except SyntaxError as error:
        raise ValueError(f"reward.functions: {path} is not valid Python: {error}") from error
    names = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    names |= {alias.asname or alias.name for node in body if isinstance(node, ast.ImportFrom) for alias in node.names}
    names |= {
        target.id
        for node in body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    if name not in names:
        raise ValueError(f"reward.functions: {path} has no function {name!r}.")
    return path, name


def try_file(path: Path) -> None:
    """Run a file once in a process of its own, as its worker will: a failing import shows before the first reward.

    Raises:
        ValueError: it raises, or does not end in time; the last line that it wrote is named.
    """
    command = [sys.executable, str(WORKER), str(path), "0"]  # without input the worker ends when the file has run
    try:
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=worker_environment(), timeout=START_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"reward.functions: {path} has not loaded within {START_LIMIT_S:g} s. Do slow work inside the function, at "
            "its first call."
        ) from None
    if result.returncode:
        last = result.stderr.decode(errors="replace").strip().rpartition("\n")[2] or f"exit code {result.returncode}"
        raise ValueError(f"reward.functions: {path} cannot be loaded: {last}.")

"""Rewards from an HTTP service: a batch in one POST, JSON in and out; what fails scores 0 and stops no run."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import Future

import httpx
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential

from megatron_eureka.rewards.components import Batch, Components
from megatron_eureka.rewards.failures import Failures
from megatron_eureka.rewards.loop_thread import LoopThread

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0  # before the first retry; doubled for each further one
MAX_FAILED = 3
MAX_REPLY_BYTES = 256 << 20
RETRIED_STATUS = (408, 429)  # and all 5xx; another 4xx would be the same the next time


class RewardService:
    """The service at one address: {"prompts", "responses", "labels"} -> {component: [a number a sample]}.

    Batches are sent as they come, some at a time. After MAX_FAILED of them in a row have failed with all their retries,
    those that wait for their turn are not sent: a step shall not wait for a service that is not there.

    Args:
        url: where to POST.
        timeout_s: limit of one request as a whole, from the connection to the reply's last byte.
        retries: further requests after one that failed.
        concurrency: batches that are under way at a time.

    `failures` has the samples that scored nothing here. Close it to end its thread.

    Raises:
        ValueError: no http address.
    """

    def __init__(self, url: str, timeout_s: float, retries: int, concurrency: int):
        check_address(url)
        self.url = url
        address = httpx.URL(url)
        self.failures = Failures(f"{address.netloc.decode()}{address.path}", f"reward service {url}")
        self._timeout_s, self._retries = timeout_s, retries
        self._places = asyncio.Semaphore(concurrency)
        self._open = 0  # batches that wait or are under way
        self._failed_in_a_row = 0  # of them, with all their retries
        self._replied = False  # in the right form, at least once
        # Limits as httpx has them are those of each read; here a task is ended as a whole.
        self._client = httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=concurrency))
        self._loop = LoopThread("reward-service")

    def submit(self, batch: Batch) -> Future[list[Components]]:
        """Ask about a batch beside whatever the caller does until it asks for the result.

        Returns:
            components of each sample. Raises ValueError for JSON of a wrong form from a service that never gave the
            right one; later it is a failure.
        """
        return self._loop.submit(self._score(batch))

    def close(self) -> None:
        """End what is under way, the connections and the thread."""
        self._loop.close(self._client.aclose)

    async def _score(self, batch: Batch) -> list[Components]:
        if not self._open:
            self._failed_in_a_row = 0
        self._open += 1
        self.failures.samples += len(batch.responses)
        try:
            async with self._places:
                scores = await self._ask_patiently(batch)
            self._failed_in_a_row = 0
            return scores
        except _Failure as failure:
            self._failed_in_a_row += 1
            return self.failures.lose(len(batch.responses), failure, counter=failure.counter)
        finally:
            self._open -= 1

    async def _ask_patiently(self, batch: Batch) -> list[Components]:
        # ASCII, for the lone surrogates that a tokenizer may produce have no UTF-8.
        body = json.dumps(vars(batch)).encode("ascii")
        patiently = AsyncRetrying(
            stop=stop_after_attempt(self._retries + 1),
            wait=wait_exponential(FIRST_PAUSE_S, LONGEST_PAUSE_S),
            retry=retry_if_exception(_may_pass),
            sleep=asyncio.sleep,
            reraise=True,
        )
        return await patiently(self._ask_once, body, len(batch.responses))

    async def _ask_once(self, body: bytes, num_samples: int) -> list[Components]:
        if self._failed_in_a_row >= MAX_FAILED:
            raise _Failure("asked no more, for it keeps on failing", may_pass=False)
        return self._read(await self._ask(body), num_samples)

    async def _ask(self, body: bytes) -> object:
        """The reply's JSON."""
        try:
            reply = await self._fetch(body)
        except TimeoutError as error:
            raise _Failure(f"no reply within {self._timeout_s} s", "timeouts") from error
        except httpx.HTTPError as error:
            raise _Failure(f"{type(error).__name__}: {error}") from error
        try:
            return json.loads(reply)
        except (ValueError, RecursionError) as error:
            raise _Failure(f"the reply is no JSON: {reply[:80]!r}") from error

    async def _fetch(self, body: bytes) -> bytes:
        """The reply's body; TimeoutError where it is not complete in time."""
        reply = bytearray()
        headers = {"Content-Type": "application/json"}
        async with asyncio.timeout(self._timeout_s):
            async with self._client.stream("POST", self.url, content=body, headers=headers) as response:
                _check_status(response.status_code)
                async for chunk in response.aiter_bytes():
                    reply += chunk
                    if len(reply) > MAX_REPLY_BYTES:
                        raise _Failure(f"the reply exceeds {MAX_REPLY_BYTES} bytes", may_pass=False)
        return bytes(reply)

    def _read(self, result: object, num_samples: int) -> list[Components]:
        try:
            scores = self.failures.read(result, num_samples)
        except ValueError as error:
            if not self._replied:
                raise
            raise _Failure(str(error)) from error
        self._replied = True
        return scores


def check_address(url: str) -> None:
    """Refuse what is no http address.

    Raises:
        ValueError: with an example.
    """
    if not url.startswith(("http://", "https://")) or not httpx.URL(url).host:
        raise ValueError(f"reward.services: {url!r} is no http address such as http://127.0.0.1:8000/score.")


class _Failure(Exception):
    """A request without a usable reply; `may_pass` says whether another one could help."""

    def __init__(self, reason: str, counter: str = "errors", may_pass: bool = True):
        super().__init__(reason)
        self.counter, self.may_pass = counter, may_pass


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, _Failure) and error.may_pass


def _check_status(status: int) -> None:
    if not 200 <= status < 300:
        raise _Failure(f"HTTP status {status}", may_pass=status >= 500 or status in RETRIED_STATUS)

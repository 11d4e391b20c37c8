"""Rewards from an HTTP service: a batch in one POST, JSON in and out; what fails scores 0 and stops no run."""

from __future__ import annotations

import asyncio
import json
import time

import httpx

from megatron_eureka.log import logger
from megatron_eureka.rewards.components import by_sample, check_components

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0  # before the first retry; doubled for each further one
MAX_REPLY_BYTES = 256 << 20
RETRIED_STATUS = (408, 429)  # and all 5xx; another 4xx would be the same the next time


class RewardService:
    """The service at one address: {"prompts", "responses", "labels"} -> {component: [a number a sample]}.

    Args:
        url: where to POST.
        timeout_s: limit of one request as a whole, from the connection to the reply's last byte.
        retries: further requests after one that failed.
        counters: "timeouts" and "errors" count the samples that scored nothing here.

    Raises:
        ValueError: no http address.
    """

    def __init__(self, url: str, timeout_s: float, retries: int, counters: dict[str, int]):
        if not url.startswith(("http://", "https://")) or not httpx.URL(url).host:
            raise ValueError(f"reward.services: {url!r} is no http address such as http://127.0.0.1:8000/score.")
        self.url, self.counters = url, counters
        self._timeout_s, self._retries = timeout_s, retries
        # A loop of its own, for only a task can be ended at any point: httpx's limits are those of each read.
        self._runner = asyncio.Runner()
        self._client = httpx.AsyncClient(timeout=None)
        self._known: tuple[str, ...] | None = None  # components of the last good reply: 0 where the service fails

    def score(self, prompts: list[str], responses: list[str], labels: list[str]) -> list[dict[str, float]]:
        """Components of each sample.

        Raises:
            ValueError: JSON of a wrong form from a service that never gave the right one; later it is a failure.
        """
        if not responses:
            return []
        # ASCII, for the lone surrogates that a tokenizer may produce have no UTF-8.
        body = json.dumps({"prompts": prompts, "responses": responses, "labels": labels}).encode("ascii")
        for attempt in range(self._retries + 1):
            if attempt:
                time.sleep(min(FIRST_PAUSE_S * 2 ** (attempt - 1), LONGEST_PAUSE_S))
            try:
                return self._by_sample(self._post(body), len(responses))
            except _Failure as failure:
                reason = failure
                if not failure.may_pass:
                    break
        self.counters[reason.counter] += len(responses)
        logger.warning("%d samples score 0: reward service %s: %s", len(responses), self.url, reason)
        return [dict.fromkeys(self._known or (), 0.0) for _ in responses]

    def close(self) -> None:
        """Close the connections."""
        self._runner.run(self._client.aclose())
        self._runner.close()

    def _post(self, body: bytes) -> object:
        """The reply's JSON."""
        try:
            reply = self._runner.run(self._fetch(body))
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

    def _by_sample(self, result: object, num_samples: int) -> list[dict[str, float]]:
        try:
            check_components(result, num_samples, f"reward service {self.url}")
        except ValueError as error:
            if self._known is None:
                raise
            raise _Failure(str(error)) from error
        self._known = tuple(result)
        scores = by_sample(result, num_samples)
        lacking = sum(len(score) < len(result) for score in scores)
        if lacking:
            self.counters["errors"] += lacking
            logger.warning("Reward service %s: no finite number for %d samples, which score 0", self.url, lacking)
        return scores


class _Failure(Exception):
    """A request without a usable reply; `may_pass` says whether another one could help."""

    def __init__(self, reason: str, counter: str = "errors", may_pass: bool = True):
        super().__init__(reason)
        self.counter, self.may_pass = counter, may_pass


def _check_status(status: int) -> None:
    if not 200 <= status < 300:
        raise _Failure(f"HTTP status {status}", may_pass=status >= 500 or status in RETRIED_STATUS)

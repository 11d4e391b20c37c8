"""The server behind a judge: any that takes OpenAI's chat completions. Its client takes a second to import."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from openai import (
    APIError,
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    NotFoundError,
    OpenAI,
    PermissionDeniedError,
    UnprocessableEntityError,
    omit,
)
from openai.types.chat import ChatCompletion
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from megatron_eureka.evaluate.judge import JudgeError

if TYPE_CHECKING:
    from megatron_eureka.config.schema import Evaluation

MAX_WAIT_S = 30.0  # between two tries; the first wait is 1 s
REJECTED = (AuthenticationError, PermissionDeniedError, NotFoundError)  # key, model or address: no retry mends them
INVALID = (BadRequestError, UnprocessableEntityError)  # one question's fault, or that of all of them
PASSING = (408, 409, 425, 429)  # and all from 500 on


class Endpoint:
    """Asks `POST {judge_url}/chat/completions`, from any thread. Use as a context manager.

    Args:
        options: the `evaluation` section; its judge_* options are used.
        key: sent as a bearer token; empty: nothing is sent, whatever the environment holds.
        sleep: waits between tries; for tests.
    """

    def __init__(self, options: Evaluation, key: str, sleep: Callable[[float], None] = time.sleep):
        self._url, self._model = options.judge_url.rstrip("/"), options.judge_model
        self._client = OpenAI(
            base_url=self._url,
            api_key=key or "none",  # without one the client would look into the environment
            timeout=options.judge_timeout_s,
            max_retries=0,  # the tries here also count replies of another form
        )
        self._headers = {} if key else {"Authorization": omit}
        # What some endpoints take under another name, or not at all.
        self._settings = {"temperature": 0, "max_tokens": options.judge_max_tokens}
        self._patiently = Retrying(
            stop=stop_after_attempt(options.judge_retries + 1),
            wait=wait_exponential(max=MAX_WAIT_S),
            retry=retry_if_exception(_may_pass),
            sleep=sleep,
            reraise=True,
        )

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ask(self, prompt: str) -> tuple[str, str]:
        """The text of the reply, which may be empty, and why it ends, after as many tries as the options grant.

        Raises:
            JudgeError: there was none.
            ValueError: the endpoint refuses the key, the model or the address.
        """
        try:
            return self._patiently(self._answer, prompt)
        except APIStatusError as error:
            problem = f"{error.status_code} {error.response.text[:200]!r}"
            if isinstance(error, REJECTED):
                raise ValueError(
                    f"The judge {self._url} refuses model {self._model!r}: {problem}. "
                    "Check evaluation.judge_url, judge_model and judge_key_env."
                ) from error
            raise JudgeError(problem, isinstance(error, INVALID)) from error
        except APIError as error:
            raise JudgeError(f"{type(error).__name__}: {error.__cause__ or error}") from error

    def _answer(self, prompt: str) -> tuple[str, str]:
        try:
            reply = self._complete(prompt)
        except ValueError as error:  # a body that breaks off
            raise JudgeError(f"the reply is no JSON: {error}") from error
        try:
            choice = reply.choices[0]
            text, finish_reason = choice.message.content or "", getattr(choice, "finish_reason", None)
        except (LookupError, TypeError, AttributeError) as error:
            raise JudgeError(f"the reply is no chat completion: {str(reply)[:200]!r}") from error
        if not isinstance(text, str):
            raise JudgeError(f"the reply is no text: {text!r:.200}")
        return text, str(finish_reason)

    def _complete(self, prompt: str) -> ChatCompletion:
        """The reply; asked again in other terms where the endpoint names a setting that it does not take."""
        text = prompt.encode("utf-8", "replace").decode()  # a tokenizer may produce half a surrogate pair
        settings = self._settings
        while True:
            try:
                reply = self._client.chat.completions.create(
                    model=self._model,
                    messages=[{"role": "user", "content": text}],
                    extra_headers=self._headers,
                    **settings,
                )
            except INVALID as error:
                other = _other_settings(settings, error.response.text)
                if other == settings:
                    raise
                settings = other
            else:
                self._settings = settings
                return reply


def _may_pass(error: BaseException) -> bool:
    """Whether the same request may fare better: nobody was there or had time, or the reply was of another form."""
    if isinstance(error, APIStatusError):
        return error.status_code in PASSING or error.status_code >= 500
    return isinstance(error, APIError | JudgeError)


def _other_settings(settings: dict[str, int], message: str) -> dict[str, int]:
    """The settings without those that the message names."""
    other = dict(settings)
    if "max_tokens" in message and "max_tokens" in other:
        other["max_completion_tokens"] = other.pop("max_tokens")
    if "temperature" in message:
        other.pop("temperature", None)
    return other

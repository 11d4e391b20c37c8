"""One line of training JSONL -> its fields, or what is wrong with it: one reading for training and for checking."""

from __future__ import annotations

import json
import math
from typing import Any

from megatron_eureka.data.messages import show


class BadRow(ValueError):
    """A row that cannot be used; `kind` says what is wrong with it: json, message, answer, picture, ..."""

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind = kind


def parse_record(line: bytes, place: str) -> dict:
    """The line's fields; `id` is the place where it has none.

    Raises:
        BadRow: it is no JSON, or no mapping with a message.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadRow("json", f"not valid JSON: {error}") from error
    if not isinstance(record, dict) or "message" not in record:
        raise BadRow("message", "expected a mapping with message and answer")
    if record.get("id") is None:
        record["id"] = place
    return record


def answer_of(record: dict) -> str | None:
    """The label as text; None for a demonstration, which may leave it out.

    Raises:
        BadRow: it is missing, or neither a text nor a finite number.
    """
    answer = record.get("answer")
    if answer is None and record.get("response") is not None:
        return None
    text = label_text(answer)
    if text is None:
        raise BadRow("answer", f"answer must be a string or a number, got {show(answer)}")
    return text


def label_text(answer: Any) -> str | None:
    """An answer as text; None where it is neither a text nor a finite number: NaN would become the word "nan"."""
    if isinstance(answer, str):
        return answer
    if isinstance(answer, float):
        return str(answer) if math.isfinite(answer) else None
    return str(answer) if isinstance(answer, int) and not isinstance(answer, bool) else None


def response_of(record: dict) -> str | None:
    """The demonstration, or None.

    Raises:
        BadRow: it is no text, or an empty one.
    """
    response = record.get("response")
    if response is not None and (not isinstance(response, str) or not response):
        raise BadRow("response", f"response must be a text, got {show(response)}")
    return response

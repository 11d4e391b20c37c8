"""One line of training JSONL -> its fields, or what is wrong with it: one reading for training and for checking."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_eureka.data.bad_row import BadRow
from megatron_eureka.data.labels import bare_label
from megatron_eureka.data.messages import control_tokens, parse_json, parse_prompt, show
from megatron_eureka.families.chat import END_OF_TURN

# What lines of other layouts have instead of `message`.
OTHER_LAYOUTS = ("messages", "prompt", "conversations", "question", "problem", "query")


@dataclass(frozen=True)
class Record:
    """A line's fields in one form."""

    id: str
    messages: tuple[dict, ...]  # chat turns; the last one is the user's
    answer: str | None  # the label, bare; None: a demonstration without one
    response: str | None  # a demonstration, without the token that ends it


def read_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(number from 1, row) of every line of JSONL that is not blank; the row of one that is no JSON is a `BadRow`."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield number, parse_json(line)
                except ValueError as error:
                    yield number, BadRow("json", f"not valid JSON: {error}")


def parse_record(row: Any, place: str) -> dict:
    """The line's fields as they stand there; `id` is the place where it has none.

    Raises:
        BadRow: it is no JSON, or no mapping with a message.
    """
    if isinstance(row, BadRow):
        raise row
    fields = row if isinstance(row, dict) else {}
    if "message" not in fields:
        other = next((name for name in OTHER_LAYOUTS if name in fields), None)
        hint = f"; {other!r} is of another layout: run `megatron-eureka data convert` on the file" if other else ""
        raise BadRow("message", f"expected a mapping with message and answer{hint}")
    return fields if fields.get("id") is not None else fields | {"id": place}


def read_record(fields: dict) -> Record:
    """The fields of `parse_record` in one form.

    Raises:
        BadRow: one of them is of no use.
    """
    answer, response, name = answer_of(fields), response_of(fields), str(fields["id"])
    messages = parse_prompt(fields["message"])
    for text in (name, json.dumps(messages, ensure_ascii=False), answer, response):
        check_encodes(text or "")
    return Record(name, messages, answer, response)


def answer_of(record: dict) -> str | None:
    """The label as text, without tags and box; None for a demonstration, which may leave it out.

    Raises:
        BadRow: it is missing, neither a text nor a finite number, or in tags that are no pair.
    """
    answer = record.get("answer")
    if answer is None and record.get("response") is not None:
        return None
    text = label_text(answer)
    if text is None:
        raise BadRow("answer", f"answer must be a string or a number, got {show(answer)}")
    return bare_label(text)


def label_text(answer: Any) -> str | None:
    """An answer as text; None where it is neither a text nor a finite number: NaN would become the word "nan"."""
    if isinstance(answer, str):
        return answer
    if isinstance(answer, float):
        return str(answer) if math.isfinite(answer) else None
    return str(answer) if isinstance(answer, int) and not isinstance(answer, bool) else None


def response_of(record: dict) -> str | None:
    """The demonstration without the token that ends a turn, which training adds, or None.

    Raises:
        BadRow: it is no text, an empty one, or holds tokens of the chat or of images.
    """
    response = record.get("response")
    if response is None:
        return None
    text = response.rstrip().removesuffix(END_OF_TURN) if isinstance(response, str) else ""
    if not text:
        raise BadRow("response", f"response must be a text, got {show(response)}")
    held = control_tokens([text])
    if held:
        raise BadRow("response", f"response holds {', '.join(held)}: it must be text alone, of one turn. Take it out")
    return text if len(text) < len(response.rstrip()) else response


def check_encodes(text: str) -> None:
    """Refuse halves of surrogate pairs, which JSON may hold and neither UTF-8 nor a tokenizer takes.

    Raises:
        BadRow: there is one.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRow("text", f"half a surrogate pair at character {error.start}: {text[error.start]!a}") from error


def check_is_jsonl(path: Path) -> None:
    """Refuse tables of other kinds, whose every line would be called broken.

    Raises:
        ValueError: it is one, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64).lstrip()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from error
    kind = "parquet" if start.startswith(b"PAR1") else ""
    if path.suffix == ".json" and start.startswith(b"["):
        kind = "a JSON list"
    if kind:
        raise ValueError(f"{path} is {kind}, and training reads JSONL. Run `megatron-eureka data convert` on it first.")

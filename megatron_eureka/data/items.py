"""The questions of a file with their pictures decoded, for checking it or for holding another file against it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_eureka.data.convert import PLACEHOLDER, Columns, check_encodes, picture_values
from megatron_eureka.data.fingerprint import Picture, fingerprint, normalise_text
from megatron_eureka.data.images import read_bytes, resolve
from megatron_eureka.data.messages import IMAGE_TOKEN, has_image_token, image_sources, parse_messages
from megatron_eureka.data.records import BadRow, answer_of, parse_record, response_of
from megatron_eureka.data.rows import picture_bytes, read_rows
from megatron_eureka.log import progress


@dataclass(frozen=True)
class Item:
    """A question."""

    place: str  # file:line, or file:row from 0 for parquet and JSON lists
    id: str
    text: str  # of the user's turns, pictures left out
    answer: str | None  # None: a demonstration or a test row without one
    pictures: tuple[Picture, ...] = ()
    messages: tuple[dict, ...] = ()  # chat turns; () for a row of another layout
    sources: tuple[str, ...] = ()  # where the pictures are, resolved

    @property
    def key(self) -> tuple[str, tuple[str, ...]]:
        """Equal for questions that are the same: normalised text and the pictures' content."""
        return normalise_text(self.text), tuple(sorted(picture.digest for picture in self.pictures))


@dataclass(frozen=True)
class Problem:
    """Something wrong with a line or between lines."""

    kind: str
    place: str
    reason: str


@dataclass
class Cache:
    """Pictures by source, so that one that many lines share is decoded once."""

    pictures: dict[str, Picture] = field(default_factory=dict)

    def get(self, source: str) -> Picture:
        if source not in self.pictures:
            self.pictures[source] = fingerprint(read_bytes(source))
        return self.pictures[source]


def read_training_items(paths: Iterable[Path], image_root: Path | None) -> Iterator[Item | Problem]:
    """Every line of training JSONL, or what is wrong with it.

    Raises:
        ValueError: a file is missing.
    """
    cache = Cache()
    for place, path, line in progress(_lines(paths), "checking"):
        try:
            yield _training_item(line, place, image_root or path.parent, cache)
        except BadRow as error:
            yield Problem(error.kind, place, str(error))


def read_other_items(paths: Iterable[Path]) -> Iterator[Item | Problem]:
    """Rows of test files in any layout that `convert` reads, or training JSONL; an answer is not needed.

    Relative paths of pictures start from each file's own folder.

    Raises:
        ValueError: a file is missing or cannot be read.
    """
    cache = Cache()
    for path in paths:
        _check_exists(path)
        for number, row in progress(enumerate(read_rows(path)), f"reading {path.name}"):
            place = f"{path}:{number}"
            try:
                yield _other_item(row, place, path.parent, cache)
            except BadRow as error:
                yield Problem("test_row", place, str(error))


def _lines(paths: Iterable[Path]) -> Iterator[tuple[str, Path, bytes]]:
    for path in paths:
        _check_exists(path)
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}:{number}", path, line


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{path}: no such file.")


def _training_item(line: bytes, place: str, root: Path, cache: Cache) -> Item:
    record = parse_record(line, place)
    answer = answer_of(record)
    response_of(record)
    item = _item_of_turns(record, answer, place, root, cache)
    if has_image_token(item.messages):
        raise BadRow("message", f"{IMAGE_TOKEN} in a text. Leave it out; give pictures as parts of a turn's content")
    return item


def _item_of_turns(row: dict, answer: str | None, place: str, root: Path, cache: Cache) -> Item:
    try:
        messages = parse_messages(row["message"])
        sources = tuple(resolve(source, root) for source in image_sources(messages))
    except ValueError as error:
        raise BadRow("message", str(error)) from error
    try:
        pictures = tuple(cache.get(source) for source in sources)
    except ValueError as error:
        raise BadRow("picture", str(error)) from error
    check_encodes(json.dumps(messages, ensure_ascii=False) + (answer or ""))
    return Item(place, str(row.get("id", place)), _text(messages), answer, pictures, messages, sources)


def _other_item(row: Any, place: str, root: Path, cache: Cache) -> Item:
    if not isinstance(row, dict):
        raise BadRow("row", f"expected a mapping, got {type(row).__name__}")
    if "message" not in row:
        return _item_of_row(row, place, root)
    return _item_of_turns(row, _any_text(row.get("answer")), place, root, cache)


def _item_of_row(row: dict, place: str, root: Path) -> Item:
    columns = Columns()
    question, answer = columns.get(row, "question"), columns.get(row, "answer")
    if not isinstance(question, str):
        raise BadRow("question", f"no text of a question; the row has {sorted(row)}")
    try:
        pictures = tuple(fingerprint(picture_bytes(value, root)) for value in picture_values(row, columns))
    except ValueError as error:
        raise BadRow("picture", str(error)) from error
    text = question.replace(PLACEHOLDER, " ")
    return Item(place, str(columns.get(row, "id") or place), text, _any_text(answer), pictures)


def _any_text(answer: Any) -> str | None:
    return None if answer is None else str(answer)


def _text(messages: tuple[dict[str, Any], ...]) -> str:
    contents = [turn["content"] for turn in messages if turn["role"] == "user"]
    return "\n".join(
        content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)
        for content in contents
    ).strip()

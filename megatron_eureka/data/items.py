"""The questions of a file with their pictures decoded, for checking it or for holding another file against it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_eureka.data.fingerprint import Picture, fingerprint, normalise_text
from megatron_eureka.data.images import read_bytes, resolve
from megatron_eureka.data.layouts import Columns, read_question
from megatron_eureka.data.messages import (
    PLACEHOLDER,
    image_sources,
    named_pictures,
    turn_texts,
)
from megatron_eureka.data.records import Record, check_is_jsonl, parse_record, read_record
from megatron_eureka.data.refusal import BadRow
from megatron_eureka.data.rows import numbered_rows, picture_bytes, picture_name, picture_root, refuse_folder
from megatron_eureka.families.resizing import MAX_RATIO
from megatron_eureka.log import progress


@dataclass(frozen=True)
class Item:
    """A question."""

    place: str  # file:line, or file:row from 0 for parquet and JSON
    id: str
    text: str  # of the user's turns, pictures left out
    answer: str | None  # None: a demonstration or a test row without one
    pictures: tuple[Picture, ...] = ()
    messages: tuple[dict, ...] = ()  # chat turns; () for a row of another layout
    sources: tuple[str, ...] = ()  # where the pictures are, resolved
    bare: str = ""  # the question alone, where a test row has options or a context too

    @property
    def key(self) -> tuple[str, tuple[str, ...]]:
        """Equal for questions that are the same: normalised text and the pictures' content."""
        return normalise_text(self.text), tuple(sorted(picture.digest for picture in self.pictures))

    @property
    def keys(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """With options and context, and without them."""
        return (self.key, (normalise_text(self.bare), self.key[1])) if self.bare else (self.key,)


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
            data = read_bytes(source)
            try:
                self.pictures[source] = fingerprint(data)
            except ValueError as error:
                raise ValueError(f"{source:.300} is {error}") from error
        return self.pictures[source]


def read_training_items(paths: Iterable[Path], image_root: Path | None) -> Iterator[Item | Problem]:
    """Every line of training JSONL, or what is wrong with it.

    Raises:
        ValueError: a file is missing.
    """
    cache = Cache()
    paths = list(paths)
    for path in paths:
        _check_exists(path)
        check_is_jsonl(path)
    for place, path, line in progress(_lines(paths), "checking"):
        try:
            if not line:
                raise BadRow("empty", "no line in it; training stops where no prompt is left")
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
        number = None
        for number, row in progress(numbered_rows(path), f"reading {path.name}"):
            place = f"{path}:{number}"
            try:
                yield _other_item(row, place, path.parent, cache)
            except BadRow as error:
                yield Problem("test_row", place, str(error))
        if number is None:
            yield Problem("test_row", str(path), "no row in it")


def _lines(paths: Iterable[Path]) -> Iterator[tuple[str, Path, bytes]]:
    """(file:line, file, line); of a file without one (file, file, nothing)."""
    for path in paths:
        empty = True
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    empty = False
                    yield f"{path}:{number}", path, line
        if empty:
            yield str(path), path, b""


def _check_exists(path: Path) -> None:
    refuse_folder(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file.")


def _training_item(line: bytes, place: str, root: Path, cache: Cache) -> Item:
    item = _item_of(read_record(parse_record(line, place)), place, root, cache)
    named, num = named_pictures(item.messages), len(item.pictures)
    if named and len(named) != num:
        raise BadRow("message", f"{', '.join(named)} in a text, which nothing replaces, for {num} pictures")
    for source, picture in zip(item.sources, item.pictures, strict=True):
        _check_shape(source, picture)
    return item


def _check_shape(source: str, picture: Picture) -> None:
    """As training does, whatever the model."""
    short, long = sorted((picture.width, picture.height))
    if long > MAX_RATIO * short:
        size = f"{source:.300} ({picture.width} x {picture.height})"
        raise BadRow("picture", f"{size} is more than {MAX_RATIO} times as long as wide. Crop or pad it")


def _item_of(record: Record, place: str, root: Path, cache: Cache) -> Item:
    messages = record.messages
    try:
        sources = tuple(resolve(source, root) for source in image_sources(messages))
    except ValueError as error:
        raise BadRow("message", str(error)) from error
    try:
        pictures = tuple(cache.get(source) for source in sources)
    except ValueError as error:
        raise BadRow("picture", str(error)) from error
    return Item(place, record.id, _text(messages), record.answer, pictures, messages, sources)


def _other_item(row: Any, place: str, folder: Path, cache: Cache) -> Item:
    question = read_question(row, Columns())
    try:
        pictures = [cache.get(resolve(source, folder)) for source in image_sources(question.turns)]
        if not pictures:
            pictures = [_fingerprint_of(value, folder) for value in question.pictures]
    except ValueError as error:
        raise BadRow("picture", str(error)) from error
    named = named_pictures(question.turns)
    if named and not pictures:
        raise BadRow("picture", f"the question names {', '.join(named)}, and the row has no picture")
    record_id = str(Columns().get(row, "id") or place)
    bare = PLACEHOLDER.sub(" ", question.bare)
    return Item(place, record_id, _text(question.turns), None, tuple(pictures), bare=bare)


def _fingerprint_of(value: Any, folder: Path) -> Picture:
    data = picture_bytes(value, picture_root(value, folder))
    try:
        return fingerprint(data)
    except ValueError as error:
        raise ValueError(f"{picture_name(value)} is {error}") from error


def _text(messages: tuple[dict[str, Any], ...]) -> str:
    texts = [" ".join(turn_texts(turn)) for turn in messages if turn["role"] == "user"]
    return PLACEHOLDER.sub(" ", "\n".join(texts)).strip()

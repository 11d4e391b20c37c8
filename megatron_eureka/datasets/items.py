"""The questions of a file with their images decoded, for checking it or for holding another file against it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megatron_eureka.data.bad_row import BadRow, bad_row
from megatron_eureka.data.images import read_bytes, resolve
from megatron_eureka.data.messages import PLACEHOLDER, image_sources, named_images, turn_texts
from megatron_eureka.data.records import check_is_jsonl, parse_record, read_lines, read_record
from megatron_eureka.datasets.fingerprint import Fingerprint, fingerprint, normalize_text
from megatron_eureka.datasets.images import find_image, image_name
from megatron_eureka.datasets.layouts import Columns, read_question
from megatron_eureka.datasets.tables import Row, check_is_file, read_table
from megatron_eureka.families.resizing import MAX_RATIO
from megatron_eureka.log import progress

Cache = dict[str, Fingerprint]  # by digest, so that one that many rows share is decoded once


@dataclass(frozen=True)
class Item:
    """A question."""

    place: str  # file:line, or file:row from 0 for parquet and JSON
    id: str
    text: str  # of the user's turns, images left out
    answer: str | None  # None: a demonstration or a test row without one
    images: tuple[Fingerprint, ...] = ()
    messages: tuple[dict, ...] = ()  # chat turns; () for a row of another layout
    sources: tuple[str, ...] = ()  # where the images are, resolved
    bare: str = ""  # the question alone, where a test row has options or a context too

    @property
    def key(self) -> tuple[str, tuple[str, ...]]:
        """Equal for questions that are the same: normalized text and the images' content."""
        return normalize_text(self.text), tuple(sorted(image.digest for image in self.images))

    @property
    def keys(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """With options and context, and without them."""
        return (self.key, (normalize_text(self.bare), self.key[1])) if self.bare else (self.key,)


@dataclass(frozen=True)
class Problem:
    """Something wrong with a line or between lines."""

    kind: str
    place: str
    reason: str


def read_training_items(paths: Iterable[Path], image_root: Path | None) -> Iterator[Item | Problem]:
    """Every line of training JSONL, or what is wrong with it.

    Raises:
        ValueError: a file is missing.
    """
    cache, paths = Cache(), list(paths)
    for path in paths:
        check_is_file(path)
        check_is_jsonl(path)
    for path in paths:
        rows = (Row(path, number, values) for number, values in read_lines(path))
        problem = Problem("empty", str(path), "no line in it; training stops where no prompt is left")
        yield from _read(rows, lambda row: _training_item(row, image_root or row.file.parent, cache), problem)


def read_other_items(paths: Iterable[Path]) -> Iterator[Item | Problem]:
    """Rows of test files in any layout that `convert` reads, or training JSONL; an answer is not needed.

    Relative paths of images start from each file's own folder.

    Raises:
        ValueError: a file is missing or cannot be read.
    """
    cache = Cache()
    for path in paths:
        check_is_file(path)
        problem = Problem("test_row", str(path), "no row in it")
        for found in _read(read_table(path), lambda row: _other_item(row, cache), problem):
            yield found if isinstance(found, Item) else replace(found, kind="test_row")


def _read(rows: Iterable[Row], item_of: Callable[[Row], Item], if_empty: Problem) -> Iterator[Item | Problem]:
    row = None
    for row in progress(rows, "reading"):
        try:
            yield item_of(row)
        except BadRow as error:
            yield Problem(error.kind, row.place, str(error))
    if row is None:
        yield if_empty


def _training_item(row: Row, root: Path, cache: Cache) -> Item:
    record = read_record(parse_record(row.values, row.place))
    messages = record.messages
    with bad_row("message"):
        sources = tuple(resolve(source, root) for source in image_sources(messages))
    with bad_row("image"):
        images = tuple(_fingerprint(read_bytes(source), f"{source:.300}", cache) for source in sources)
    named = named_images(messages)
    if named and len(named) != len(images):
        raise BadRow("message", f"{', '.join(named)} in a text, which nothing replaces, for {len(images)} images")
    for source, image in zip(sources, images, strict=True):
        _check_shape(source, image)
    return Item(row.place, record.id, _text(messages), record.answer, images, messages, sources)


def _check_shape(source: str, image: Fingerprint) -> None:
    """As training does, whatever the model."""
    short, long = sorted((image.width, image.height))
    if long > MAX_RATIO * short:
        size = f"{source:.300} ({image.width} x {image.height})"
        raise BadRow("image", f"{size} is more than {MAX_RATIO} times as long as wide. Crop or pad it")


def _other_item(row: Row, cache: Cache) -> Item:
    question = read_question(row.columns, Columns())
    values = image_sources(question.turns) or question.images
    images = tuple(_fingerprint(find_image(value, row.roots)[0], image_name(value), cache) for value in values)
    named = named_images(question.turns)
    if named and not images:
        raise BadRow("image", f"the question names {', '.join(named)}, and the row has no image")
    record_id = str(Columns().get(row.columns, "id") or row.place)
    bare = PLACEHOLDER.sub(" ", question.bare)
    return Item(row.place, record_id, _text(question.turns), None, images, bare=bare)


def _fingerprint(data: bytes, name: str, cache: Cache) -> Fingerprint:
    digest = hashlib.sha256(data).hexdigest()
    if digest not in cache:
        with bad_row("image", f"{name} is "):
            cache[digest] = fingerprint(data)
    return cache[digest]


def _text(messages: tuple[dict[str, Any], ...]) -> str:
    texts = [" ".join(turn_texts(turn)) for turn in messages if turn["role"] == "user"]
    return PLACEHOLDER.sub(" ", "\n".join(texts)).strip()

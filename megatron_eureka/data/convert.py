"""Public training sets -> JSONL for training, with the pictures in files: columns of any names, or chat turns."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_eureka.config.schema import ANSWER_PROMPT
from megatron_eureka.data.images import resolve
from megatron_eureka.data.messages import parse_messages
from megatron_eureka.data.records import BadRow, label_text
from megatron_eureka.data.rows import picture_bytes, read_rows, save_picture
from megatron_eureka.log import logger, progress

PLACEHOLDER = "<image>"
MAX_NAMED = 20  # rows left out that are named one by one
# Names that public sets give to a column, in the order they are looked for: MMK12, Geometry3K, MathVista.
NAMES = {
    "id": ("id", "pid", "question_id"),
    "question": ("question", "problem", "query"),
    "answer": ("answer", "ground_truth"),
    "image": ("decoded_image", "image", "images", "image_path"),  # where both are, `image` is a path of their own disk
}


@dataclass(frozen=True)
class Columns:
    """Names of the columns; empty: the first of NAMES that a row has."""

    id: str = ""
    question: str = ""
    answer: str = ""
    image: str = ""

    def get(self, row: dict, kind: str) -> Any:
        """The row's value of that kind, or None."""
        given = getattr(self, kind)
        names = (given,) if given else NAMES[kind]
        return next((row[name] for name in names if row.get(name) is not None), None)


@dataclass(frozen=True)
class Conversion:
    """What `convert` does with the rows."""

    out: Path  # JSONL file to write
    images: Path  # folder for the pictures
    columns: Columns = Columns()
    system: str = ANSWER_PROMPT  # system turn of every prompt; empty: none. Rows of chat turns keep their own.
    limit: int = 0  # rows written at most; 0: all


def convert(inputs: list[Path], options: Conversion) -> Counter[str]:
    """Write the output and return how many rows were written and left out, by reason; all of it or nothing.

    Raises:
        ValueError: an input cannot be read, or no row is left.
        OSError: the output cannot be written.
    """
    options.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = options.out.with_name(options.out.name + ".tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            counts = _write(inputs, options, file)
        if not counts["written"]:
            raise ValueError(f"No row of {len(inputs)} files could be used: {dict(counts) or 'they are empty'}.")
        os.replace(temporary, options.out)
    finally:
        temporary.unlink(missing_ok=True)
    return counts


def _write(inputs: list[Path], options: Conversion, file: Any) -> Counter[str]:
    counts: Counter[str] = Counter()
    for path, number, row in progress(_all_rows(inputs), "converting"):
        place = f"{path.name}:{number}"
        try:
            record = convert_row(row, options, path.parent, place)
        except BadRow as error:
            counts[error.kind] += 1
            if counts.total() - counts["written"] <= MAX_NAMED:
                logger.warning("left out: %s: %s", place, error)
            continue
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
        counts["written"] += 1
        if counts["written"] == options.limit:
            break
    return counts


def _all_rows(inputs: list[Path]) -> Iterator[tuple[Path, int, Any]]:
    """(file, number of the row in it, row) of all inputs."""
    for path in inputs:
        if not path.is_file():
            raise ValueError(f"{path}: no such file. Give .parquet, .json or .jsonl files.")
        for number, row in enumerate(read_rows(path)):
            yield path, number, row


def convert_row(row: Any, options: Conversion, root: Path, default_id: str) -> dict:
    """One line of the output; its pictures are written.

    Args:
        root: folder that the row's paths start from.
        default_id: for a row without an id.

    Raises:
        BadRow: a part of it is missing or of no use.
    """
    if not isinstance(row, dict):
        raise BadRow("row", f"expected a mapping, got {type(row).__name__}")
    answer = _answer(row, options.columns)
    message = _own_turns(row["message"], options, root) if "message" in row else _turns(row, options, root)
    record_id = options.columns.get(row, "id")
    record = {
        "id": default_id if record_id is None or record_id == "" else str(record_id),
        "message": json.dumps(message, ensure_ascii=False),
        "answer": answer,
    }
    check_encodes("".join(record.values()))
    return record


def check_encodes(text: str) -> None:
    """Refuse halves of surrogate pairs, which JSON may hold and neither UTF-8 nor a tokenizer takes.

    Raises:
        BadRow: there is one.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRow("text", f"half a surrogate pair at character {error.start}: {text[error.start]!a}") from error


def question_parts(question: str, pictures: list[str]) -> list[dict]:
    """A turn's content: text and pictures in their order; pictures without a place in the text come first."""
    texts = question.split(PLACEHOLDER)
    if len(texts) - 1 > len(pictures):
        raise BadRow("question", f"{len(texts) - 1} {PLACEHOLDER} in the question for {len(pictures)} pictures")
    first = len(pictures) - (len(texts) - 1)  # those without a place
    parts: list[dict] = [{"type": "image", "image": source} for source in pictures[:first]]
    for index, text in enumerate(texts):
        if text.strip():
            parts.append({"type": "text", "text": text.strip()})
        if index < len(texts) - 1:
            parts.append({"type": "image", "image": pictures[first + index]})
    return parts


def picture_values(row: dict, columns: Columns) -> list:
    """The row's pictures, in whatever form `picture_bytes` takes."""
    values = columns.get(row, "image")
    return [] if values is None else list(values) if isinstance(values, list | tuple) else [values]


def _answer(row: dict, columns: Columns) -> str:
    answer = label_text(columns.get(row, "answer"))
    if answer is None or not answer.strip():
        wanted = columns.answer or "/".join(NAMES["answer"])
        raise BadRow("answer", f"no text or finite number under {wanted!r}; the row has {sorted(row)}")
    return answer.strip()


def _turns(row: dict, options: Conversion, root: Path) -> list[dict]:
    question = options.columns.get(row, "question")
    if not isinstance(question, str) or not question.strip():
        wanted = options.columns.question or "/".join(NAMES["question"])
        raise BadRow("question", f"no text under {wanted!r}; the row has {sorted(row)}")
    values = picture_values(row, options.columns)
    sources = [_save(picture_bytes(value, root), options) for value in values]
    turns = [{"role": "user", "content": question_parts(question, sources)}]
    return [{"role": "system", "content": options.system}, *turns] if options.system else turns


def _own_turns(message: Any, options: Conversion, root: Path) -> list[dict]:
    """Chat turns as they are; their pictures are copied into the folder."""
    try:
        turns = parse_messages(message)
    except ValueError as error:
        raise BadRow("message", str(error)) from error
    for part in (part for turn in turns if isinstance(turn["content"], list) for part in turn["content"]):
        if part["type"] == "image":
            try:
                source = resolve(part["image"], root)
            except ValueError as error:
                raise BadRow("picture", str(error)) from error
            part["image"] = _save(picture_bytes(source, root), options)
    return list(turns)


def _save(data: bytes, options: Conversion) -> str:
    """Write a picture; its path as the output's lines name it."""
    options.images.mkdir(parents=True, exist_ok=True)
    return os.path.relpath(options.images / save_picture(data, options.images), options.out.parent)

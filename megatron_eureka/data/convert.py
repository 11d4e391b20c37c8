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
from megatron_eureka.data.layouts import Columns, Question, demonstration_of, label_of, read_question
from megatron_eureka.data.messages import image_sources, parse_prompt, turn_texts
from megatron_eureka.data.placing import as_parts, has_own_pictures, place_pictures
from megatron_eureka.data.records import check_encodes
from megatron_eureka.data.refusal import BadRow
from megatron_eureka.data.rows import (
    numbered_rows,
    picture_bytes,
    picture_name,
    picture_root,
    refuse_folder,
    save_picture,
)
from megatron_eureka.files import new_file
from megatron_eureka.log import logger, progress

MAX_NAMED = 20  # rows left out that are named one by one
TAG = "<answer>"


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
        DiskFull, OSError: the output cannot be written.
    """
    if options.out.is_dir():
        raise ValueError(f"{options.out} is a folder. Give the JSONL file to write, such as {options.out}/train.jsonl.")
    with new_file(options.out) as file:
        counts = _write(inputs, options, file)
        if not counts["written"]:
            raise ValueError(f"No row of {len(inputs)} files could be used: {dict(counts) or 'they are empty'}.")
    return counts


def _write(inputs: list[Path], options: Conversion, file: Any) -> Counter[str]:
    counts: Counter[str] = Counter()
    untagged = 0
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
        untagged += _contradicts(record, options.system)
        if counts["written"] == options.limit:
            break
    if untagged:
        logger.warning(
            "%d responses have no %s, which their system turn asks for: where SFT is to learn them as they are, give "
            "--system ''",
            *(untagged, TAG),
        )
    return counts


def _contradicts(record: dict, system: str) -> bool:
    """Whether a demonstration does not do what the system turn that it was given asks for."""
    if not system or TAG not in system or TAG in record.get("response", TAG):
        return False
    return json.loads(record["message"])[0] == {"role": "system", "content": system}


def _all_rows(inputs: list[Path]) -> Iterator[tuple[Path, int, Any]]:
    """(file, number of the row in it, row) of all inputs."""
    for path in inputs:
        refuse_folder(path)
        if not path.is_file():
            raise ValueError(f"{path}: no such file. Give .parquet, .json or .jsonl files.")
        for number, row in numbered_rows(path):
            yield path, number, row


def convert_row(row: Any, options: Conversion, root: Path, default_id: str) -> dict:
    """One line of the output; its pictures are written.

    Args:
        root: folder that the row's paths start from.
        default_id: for a row without an id.

    Raises:
        BadRow: a part of it is missing or of no use.
    """
    question = read_question(row, options.columns)
    response = demonstration_of(question)
    answer = label_of(question, response)
    message = _turns(question, options, root)
    record_id = options.columns.get(row, "id")
    record = {
        "id": default_id if record_id is None or record_id == "" else str(record_id),
        "message": json.dumps(message, ensure_ascii=False),
        **({} if answer is None else {"answer": answer}),
        **({} if response is None else {"response": response}),
    }
    check_encodes("".join(record.values()))
    return record


def _turns(question: Question, options: Conversion, root: Path) -> list[dict]:
    """The question's turns; the pictures are files in the output's folder."""
    if not image_sources(question.turns) and not "".join(turn_texts(question.turns[-1])).strip():
        raise BadRow("question", "the question is empty")
    if has_own_pictures(question.turns, len(question.pictures)):
        turns = [_with_saved_pictures(turn, options, root) for turn in question.turns]
    else:
        sources = [_save(value, root, options) for value in question.pictures]
        turns = place_pictures(question.turns, sources)
    if options.system and not question.complete:
        turns = [{"role": "system", "content": options.system}, *turns]
    try:
        return list(parse_prompt(turns))
    except ValueError as error:
        raise BadRow("message", str(error)) from error


def _with_saved_pictures(turn: dict, options: Conversion, root: Path) -> dict:
    """A turn whose own pictures are copied into the folder."""
    parts = []
    for part in as_parts(turn["content"]):
        if part["type"] == "image":
            try:
                resolve(part["image"], root)
            except ValueError as error:
                raise BadRow("picture", str(error)) from error
            part = part | {"image": _save(part["image"], root, options)}
        parts.append(part)
    return turn if isinstance(turn["content"], str) else turn | {"content": parts}


def _save(value: Any, root: Path, options: Conversion) -> str:
    """Write a picture; its path as the output's lines name it."""
    data = picture_bytes(value, picture_root(value, root))
    stored = save_picture(data, options.images, picture_name(value))
    return os.path.relpath(options.images / stored, options.out.parent)

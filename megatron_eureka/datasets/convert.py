"""Public training sets -> JSONL for training, with the images in files: columns of any names, or chat turns."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_eureka.config.schema import ANSWER_PROMPT
from megatron_eureka.data.bad_row import BadRow, LeftOut
from megatron_eureka.data.messages import image_sources, parse_prompt, turn_texts
from megatron_eureka.data.records import check_encodes
from megatron_eureka.datasets.images import ImageFolder
from megatron_eureka.datasets.layouts import Columns, Question, demonstration_of, label_of, read_question
from megatron_eureka.datasets.placing import has_own_images, place_images, with_sources
from megatron_eureka.datasets.tables import Row, check_is_file, read_table
from megatron_eureka.files import new_file
from megatron_eureka.log import logger, progress

TAG = "<answer>"


@dataclass(frozen=True)
class Conversion:
    """What `convert` does with the rows."""

    out: Path  # JSONL file to write
    images: Path  # folder for the images
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
    written, untagged, left_out = 0, 0, LeftOut()
    for row in progress(_all_rows(inputs), "converting"):
        try:
            record = convert_row(row, options)
        except BadRow as error:
            left_out.add(_name(row), error)
            continue
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
        written += 1
        untagged += _contradicts(record, options.system)
        if written == options.limit:
            break
    if untagged:
        logger.warning(
            "%d responses have no %s, which their system turn asks for: where SFT is to learn them as they are, give "
            "--system ''",
            *(untagged, TAG),
        )
    return Counter({"written": written} if written else {}) + left_out


def _contradicts(record: dict, system: str) -> bool:
    """Whether a demonstration does not do what the system turn that it was given asks for."""
    if not system or TAG not in system or TAG in record.get("response", TAG):
        return False
    return json.loads(record["message"])[0] == {"role": "system", "content": system}


def _all_rows(inputs: list[Path]) -> Iterator[Row]:
    for path in inputs:
        check_is_file(path)
        yield from read_table(path)


def _name(row: Row) -> str:
    return f"{row.file.name}:{row.number}"


def convert_row(row: Row, options: Conversion) -> dict:
    """One line of the output; its images are written.

    Raises:
        BadRow: a part of it is missing or of no use.
    """
    question = read_question(row.columns, options.columns)
    response = demonstration_of(question)
    answer = label_of(question, response)
    message = _turns(question, options, row.roots)
    record_id = options.columns.get(row.columns, "id")
    record = {
        "id": _name(row) if record_id is None or record_id == "" else str(record_id),
        "message": json.dumps(message, ensure_ascii=False),
        **({} if answer is None else {"answer": answer}),
        **({} if response is None else {"response": response}),
    }
    check_encodes("".join(record.values()))
    return record


def _turns(question: Question, options: Conversion, roots: Sequence[Path]) -> list[dict]:
    """The question's turns; the images are files in the output's folder."""
    if not image_sources(question.turns) and not "".join(turn_texts(question.turns[-1])).strip():
        raise BadRow("question", "the question is empty")
    images = ImageFolder(options.images)

    def save(value: Any) -> str:
        """Write an image; its path as the output's lines name it."""
        return os.path.relpath(options.images / images.copy(value, roots), options.out.parent)

    if has_own_images(question.turns, len(question.images)):
        turns = [with_sources(turn, save) for turn in question.turns]
    else:
        turns = place_images(question.turns, [save(value) for value in question.images])
    if options.system and not question.complete:
        turns = [{"role": "system", "content": options.system}, *turns]
    return list(parse_prompt(turns))

"""Responses on disk: written chunk by chunk, taken up again after a kill, and read from others' files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megatron_eureka.data.bad_row import BadRow
from megatron_eureka.datasets.tables import Row, read_table
from megatron_eureka.files import naming_full_disk, only_writer, write_atomically

TEXT_NAMES = ("responses", "response", "model_answer", "prediction", "output")
MAX_NAMED = 20  # columns, in a message
ID_NAMES = ("id", "pid", "sample_index", "question_id", "index")


@dataclass(frozen=True)
class Response:
    """All samples of one item, or why there are none."""

    id: str
    responses: tuple[str, ...]
    finish_reasons: tuple[str, ...] = ()  # "stop" or "length"; empty where nobody knows
    refused: str = ""


class ResponseFile:
    """One model's responses to one benchmark: JSON lines, and beside them the settings that they were made under.

    Open it on one process; the lock is the operating system's and goes with the process.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]):
        self.path, self.settings = path, dict(settings)
        self._file = None
        self._held = ExitStack()

    @property
    def settings_path(self) -> Path:
        return self.path.with_suffix(".settings.json")

    def check(self) -> None:
        """Refuse a file of other settings.

        Raises:
            ValueError: naming what differs, before and now.
        """
        if not self.path.exists() or not self.settings_path.exists():
            return
        before = json.loads(self.settings_path.read_text("utf-8"))
        changed = [
            f"{name} was {before.get(name)!r}, now {self.settings.get(name)!r}"
            for name in sorted({*before, *self.settings})
            if before.get(name) != self.settings.get(name)
        ]
        if changed:
            raise ValueError(
                f"{self.path} holds responses made under other settings: {'; '.join(changed)}. Give another --out, or "
                "--overwrite to begin again."
            )

    def read(self) -> dict[str, Response]:
        """What is there, by id; a torn last line does not count.

        Raises:
            ValueError: a line before the last one is broken.
        """
        return _read_own(self.path) if self.path.exists() else {}

    def open(self) -> dict[str, Response]:
        """Take the file for writing, cut a torn last line off, and return what is there.

        Raises:
            ValueError: another process writes it, or it holds responses of other settings.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            lock = self.path.with_name(f".{self.path.name}.lock")
            held.enter_context(only_writer(lock, str(self.path), "give another --out"))
            self.check()
            self._file = held.enter_context(open(self.path, "ab"))
            found = _read_own(self.path)
            self._file.truncate(self.path.read_bytes().rfind(b"\n") + 1)
            write_atomically(self.settings_path, json.dumps(self.settings, indent=1) + "\n")
            self._held = held.pop_all()
        return found

    def append(self, responses: Iterable[Response]) -> None:
        """Write a chunk; it is on the disk when this returns."""
        assert self._file is not None, "open comes first"
        lines = "".join(json.dumps(asdict(response), ensure_ascii=False) + "\n" for response in responses)
        with naming_full_disk(self.path):
            self._file.write(lines.encode("utf-8", "replace"))
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Give the file up."""
        self._held.close()
        self._file = None


def _read_own(path: Path) -> dict[str, Response]:
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    found = {}
    for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
        try:
            record = json.loads(line)
            response = Response(
                record["id"], tuple(record["responses"]), tuple(record["finish_reasons"]), record["refused"]
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}:{number} is broken ({error}). Remove the line to have it answered again."
            ) from error
        found[response.id] = response
    return found


def read_responses(path: Path) -> tuple[dict[str, Response], int]:
    """Responses of anybody: ours, or a JSON(L) file of rows with an id and a text or a list of texts.

    A row has its id under one of ID_NAMES and its text under one of TEXT_NAMES; a JSON mapping may go from id to row,
    to text, or to a list of texts.

    Returns:
        the responses by id, and how many rows could not be used.

    Raises:
        ValueError: no such file, no JSON, or no usable row.
    """
    if not path.is_file():
        raise ValueError(f"--responses: {path} is no file. Give a .jsonl or .json file of id and response.")
    found: dict[str, Response] = {}
    unusable, columns = 0, set()
    for row in read_table(path):
        columns |= row.values.keys() if isinstance(row.values, dict) else set()
        try:
            response = _from_row(row)
        except BadRow:
            unusable += 1
            continue
        found[response.id] = response
    if not found:
        raise ValueError(
            f"--responses: none of the {unusable} rows of {path} has an id ({', '.join(ID_NAMES)}) and a text "
            f"({', '.join(TEXT_NAMES)}). Columns found: {', '.join(sorted(columns)[:MAX_NAMED]) or 'none'}."
        )
    return found, unusable


def _from_row(row: Row) -> Response:
    values = {"response": row.values} if row.key and isinstance(row.values, str | list) else row.columns
    name = next((str(values[name]) for name in ID_NAMES if values.get(name) is not None), row.key)
    text = next((values[name] for name in TEXT_NAMES if values.get(name) is not None), None)
    texts = text if isinstance(text, list) else [text]
    if not name or not all(isinstance(entry, str) for entry in texts):
        raise BadRow("row", "no id or no text")
    return Response(name, tuple(texts))

"""Where a benchmark's rows lie, and reading them one by one, so that a bad one costs nothing but itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_eureka.data import rows
from megatron_eureka.evaluate.item import Malformed


@dataclass(frozen=True)
class Row:
    """One row as it was read."""

    place: str  # "file:number", from 0 for tables and lists, from 1 for lines
    values: Any  # a mapping, unless the row is malformed
    roots: tuple[Path, ...]  # folders that picture paths may start from
    key: str = ""  # of a JSON mapping of rows

    def checked(self) -> Row:
        """The row itself.

        Raises:
            Malformed: it is no mapping.
        """
        if not isinstance(self.values, dict):
            shown = self.values if isinstance(self.values, str) else type(self.values).__name__
            raise Malformed("row", f"expected a mapping, got {shown}")
        return self

    def text(self, *names: str) -> str:
        """The first of these columns that has a text or a number, stripped; "" if none has."""
        for name in names:
            value = self.values.get(name)
            if isinstance(value, str | int | float) and not isinstance(value, bool) and str(value).strip():
                return str(value).strip()
        return ""

    def id(self, *names: str) -> str:
        """The row's own name, else its place."""
        return self.text(*names) or self.key or self.place

    def mapping(self, name: str) -> dict:
        """A column that holds a mapping; {} if it does not."""
        value = self.values.get(name)
        return value if isinstance(value, dict) else {}

    def texts(self, name: str) -> tuple[str, ...]:
        """A column that holds a list of texts or numbers; () if it is empty or null.

        Raises:
            Malformed: it holds something else.
        """
        value = self.values.get(name)
        if value is None or value == "":
            return ()
        if not isinstance(value, list) or not all(isinstance(entry, str | int | float) for entry in value):
            raise Malformed("choices" if name in ("choices", "options") else "answer", f"{name} is no list of texts")
        return tuple(str(entry).strip() for entry in value)


def find_files(path: Path, patterns: Sequence[str]) -> list[Path]:
    """The file itself, or those in a folder that match the first pattern with a match: the shards of one table.

    Raises:
        ValueError: there is none.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"{path}: no such file or folder. Give the benchmark's file, or its folder as downloaded.")
    for pattern in patterns:
        found = sorted(file for file in path.glob(pattern) if file.is_file())
        if len(found) > 1 and pattern.startswith("*."):
            raise ValueError(f"{path} holds {len(found)} files {pattern}. Give one of them.")
        if found:
            return found
    raise ValueError(f"{path} holds none of {', '.join(patterns)}. Give the benchmark's file itself.")


def read_rows(files: Sequence[Path]) -> Iterator[Row]:
    """The rows of all files; a line that is no JSON is a row whose values are the reason.

    Raises:
        ValueError: a file is unreadable as a whole, or of an unknown kind.
    """
    for file in files:
        parents = (file.parent.resolve(), file.parent.resolve().parent)
        roots = tuple(folder for parent in parents for folder in (parent, parent / "images"))
        readers = {".parquet": _parquet_rows, ".json": _json_rows, ".jsonl": _jsonl_rows}
        if file.suffix not in readers:
            raise ValueError(f"{file}: unknown kind {file.suffix!r}. Give a .parquet, .json or .jsonl file.")
        for number, key, values in readers[file.suffix](file):
            yield Row(f"{file}:{number}", values, roots, key)


def _parquet_rows(file: Path) -> Iterator[tuple[int, str, Any]]:
    for number, values in enumerate(rows.read_rows(file)):
        yield number, "", values


def _jsonl_rows(file: Path) -> Iterator[tuple[int, str, Any]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield number, "", json.loads(line)
                except (ValueError, RecursionError) as error:
                    yield number, "", f"no JSON: {error}"


def _json_rows(file: Path) -> Iterator[tuple[int, str, Any]]:
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not readable as JSON: {error}") from error
    if isinstance(content, dict):  # MathVista's: number of the problem -> problem
        for number, (key, values) in enumerate(content.items()):
            yield number, key, values
    elif isinstance(content, list):
        for number, values in enumerate(content):
            yield number, "", values
    else:
        raise ValueError(f"{file}: expected a list or a mapping of rows, got {type(content).__name__}.")

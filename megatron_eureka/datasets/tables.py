"""Rows of tables (parquet, JSON, JSONL), read one by one, so that a bad one costs nothing but itself."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from megatron_eureka.data.bad_row import BadRow
from megatron_eureka.data.messages import parse_json
from megatron_eureka.data.records import label_text, read_lines

SUFFIXES = (".parquet", ".json", ".jsonl")


@dataclass(frozen=True)
class Row:
    """One row as it was read."""

    file: Path
    number: int  # from 0 for tables and lists, from 1 for lines
    values: Any  # a mapping, unless the row is of no use
    key: str = ""  # of a JSON mapping of rows

    @property
    def place(self) -> str:
        return f"{self.file}:{self.number}"

    @property
    def roots(self) -> tuple[Path, ...]:
        """Where the row's paths may start: public sets have tables beside their images, or one folder deeper."""
        folder = self.file.absolute().parent
        return (folder, folder / "images", folder.parent, folder.parent / "images")

    @property
    def columns(self) -> dict:
        """The values, which are a mapping.

        Raises:
            BadRow: they are none, or the line could not be read.
        """
        if isinstance(self.values, BadRow):
            raise self.values
        if not isinstance(self.values, dict):
            raise BadRow("row", f"expected a mapping, got {type(self.values).__name__}")
        return self.values

    def text(self, *names: str) -> str:
        """The first of these columns that has a text or a number, stripped; "" if none has."""
        texts = ((label_text(self.columns.get(name)) or "").strip() for name in names)
        return next(filter(None, texts), "")

    def id(self, *names: str) -> str:
        """The row's own name, else its place."""
        return self.text(*names) or self.key or self.place

    def texts(self, name: str) -> tuple[str, ...]:
        """A column that holds a list of texts or numbers; () if it is empty or null.

        Raises:
            BadRow: it holds something else.
        """
        value = self.columns.get(name)
        if value is None or value == "":
            return ()
        if not isinstance(value, list) or not all(isinstance(entry, str | int | float) for entry in value):
            raise BadRow("choices" if name in ("choices", "options") else "answer", f"{name} is no list of texts")
        return tuple(str(entry).strip() for entry in value)


def read_table(file: Path) -> Iterator[Row]:
    """The rows of a file.

    Raises:
        ValueError: another kind of file, or a broken one.
    """
    if file.suffix == ".parquet":
        yield from (Row(file, number, values) for number, values in enumerate(_read_parquet(file)))
    elif file.suffix == ".jsonl":
        yield from (Row(file, number, values) for number, values in read_lines(file))
    elif file.suffix == ".json":
        yield from _read_json(file)
    else:
        raise ValueError(f"{file}: unknown kind {file.suffix!r}. Give .parquet, .json or .jsonl files.")


def _read_parquet(file: Path) -> Iterator[dict]:
    try:
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=64):  # 64 rows' images in memory
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{file}: not readable as parquet: {error}") from error


def _read_json(file: Path) -> Iterator[Row]:
    """A list of rows, or a mapping of ids to them."""
    try:
        content = parse_json(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file}: not valid JSON: {error}") from error
    if isinstance(content, list):
        yield from (Row(file, number, values) for number, values in enumerate(content))
    elif isinstance(content, dict) and content:
        for number, (key, values) in enumerate(content.items()):
            yield Row(file, number, {"id": key} | values if isinstance(values, dict) else values, key)
    else:
        raise ValueError(
            f"{file}: expected a list of rows or a mapping of ids to rows, got {type(content).__name__}. "
            "Give a row a line as .jsonl."
        )


def check_is_file(path: Path) -> None:
    """Refuse what is no file, and say what is in a folder.

    Raises:
        ValueError: it is missing, or a folder.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; it {_listed(path, _tables_below(path))} Give files.")
    if not path.is_file():
        raise ValueError(f"{path}: no such file.")


def table_files(path: Path) -> list[Path]:
    """The file itself, or the tables of one kind below a folder.

    Raises:
        ValueError: it is missing, there is none in it, or they are of several kinds.
    """
    if not path.is_dir():
        check_is_file(path)
        return [path]
    found = _tables_below(path)
    if len({file.suffix for file in found}) != 1:
        raise ValueError(f"{path} {_listed(path, found)} Give one of its files, or a folder with files of one kind.")
    return found


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


def _tables_below(folder: Path) -> list[Path]:
    files = (Path(parent) / name for parent, _, names in os.walk(folder) for name in names)
    return sorted(
        file
        for file in files
        if file.suffix in SUFFIXES and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def _listed(folder: Path, files: list[Path]) -> str:
    names = ", ".join(str(file.relative_to(folder)) for file in files[:8]) + (", ..." if len(files) > 8 else "")
    return f"holds {names}." if files else "holds no .parquet, .json or .jsonl file."

"""Rows of public data sets (parquet, JSON, JSONL) and the pictures in them, whatever form they have."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from megatron_eureka.data.decoding import decode, picture_kind
from megatron_eureka.data.picture_files import read_picture_file
from megatron_eureka.data.refusal import BadRow
from megatron_eureka.files import write_atomically

SUFFIXES = (".parquet", ".json", ".jsonl")
MAX_PATH = 1024  # characters; what is longer is base64
MAX_SHOWN = 80  # characters of one in a message


def read_rows(path: Path) -> Iterator[Any]:
    """The rows of a file, as `numbered_rows` gives them."""
    return (row for _, row in numbered_rows(path))


def numbered_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(number, row) of a file: lines from 1, other rows from 0; a line that is no JSON is the `BadRow` that says so.

    Raises:
        ValueError: another kind of file, or a broken one.
    """
    if path.suffix == ".parquet":
        yield from enumerate(_read_parquet(path))
    elif path.suffix == ".jsonl":
        with path.open("rb") as file:
            yield from ((number, _parse_line(line)) for number, line in enumerate(file, 1) if line.strip())
    elif path.suffix == ".json":
        yield from enumerate(_read_json(path))
    else:
        raise ValueError(f"{path}: unknown kind {path.suffix!r}. Give .parquet, .json or .jsonl files.")


def table_files(path: Path) -> list[Path]:
    """The file itself, or the tables of one kind below a folder.

    Raises:
        ValueError: it is missing, there is none in it, or they are of several kinds.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"{path}: no such file.")
    found = _tables_below(path)
    if len({file.suffix for file in found}) != 1:
        raise ValueError(f"{path} {_listed(path, found)} Give one of its files, or a folder with files of one kind.")
    return found


def refuse_folder(path: Path) -> None:
    """Refuse a folder, and say what is in it.

    Raises:
        ValueError: it is one.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; it {_listed(path, _tables_below(path))} Give files.")


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


def _read_json(path: Path) -> list:
    """A list of rows, or a mapping of ids to them."""
    try:
        rows = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    if isinstance(rows, dict) and rows and all(isinstance(row, dict) for row in rows.values()):
        return [{"id": key} | row for key, row in rows.items()]
    if not isinstance(rows, list):
        raise ValueError(
            f"{path}: expected a list of rows or a mapping of ids to rows, got {type(rows).__name__}. "
            "Give a row a line as .jsonl."
        )
    return rows


def _read_parquet(path: Path) -> Iterator[dict]:
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=64):  # 64 rows' pictures in memory
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not readable as parquet: {error}") from error


def _parse_line(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:  # UTF-8 that is none is a ValueError too
        return BadRow("json", f"not valid JSON: {error}")


def picture_bytes(value: Any, root: Path) -> bytes:
    """The encoded picture behind one value of a row.

    Args:
        value: `{"bytes": ..., "path": ...}` as Hugging Face's `datasets` stores it, encoded bytes, a base64 text or
            data URI, or a path relative to `root`.

    Raises:
        BadRow: none of these.
    """
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if not isinstance(value, str) or not value:
        raise BadRow("picture", f"a picture is {type(value).__name__}, expected bytes, base64 or a path")
    if value.startswith(("http://", "https://")):
        raise BadRow("picture", f"{value[:80]}: pictures are read from disk only. Download it and give its path")
    file = root / value.removeprefix("file://")
    if len(value) < MAX_PATH and os.path.lexists(file):  # a name that is too long is no file, where Path raises
        try:
            return read_picture_file(file)
        except ValueError as error:
            raise BadRow("picture", str(error)) from error
    try:
        return base64.b64decode(value.partition("base64,")[2] or value, validate=True)
    except ValueError as error:
        raise BadRow("picture", f"{value[:80]!r} is neither a file in {root} nor base64") from error


def picture_root(value: Any, folder: Path) -> Path:
    """Where the picture's path starts: public sets have tables beside their pictures, or one folder deeper."""
    name = value.get("path") if isinstance(value, dict) and not value.get("bytes") else value
    if not isinstance(name, str) or len(name) > MAX_PATH:
        return folder
    roots = (folder, folder / "images", folder.parent, folder.parent / "images")
    return next((root for root in roots if os.path.isfile(root / name.removeprefix("file://"))), folder)


def picture_name(value: Any) -> str:
    """What to call one value of a row in a message."""
    name = value.get("path") if isinstance(value, dict) else value
    is_path = isinstance(name, str) and 0 < len(name) < MAX_PATH and not name.startswith("data:")
    shown = name if not is_path or len(name) <= MAX_SHOWN else f"...{name[-MAX_SHOWN:]}"  # a path's end tells more
    return f"the picture {shown!r}" if is_path else "the row's picture"


def save_picture(data: bytes, folder: Path, name: str = "the picture") -> str:
    """Write a picture under a name that follows from its content, unchanged; returns the name.

    Args:
        name: what to call it in a message.

    Raises:
        BadRow: it is no readable picture.
    """
    try:
        kind = picture_kind(decode(data))
    except ValueError as error:
        raise BadRow("picture", f"{name} is {error}") from error
    stored = f"{hashlib.sha256(data).hexdigest()[:24]}.{kind}"
    target = folder / stored
    if not target.exists():
        write_atomically(target, data, sync=False)
    return stored

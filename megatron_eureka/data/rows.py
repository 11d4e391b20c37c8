"""Rows of public data sets (parquet, JSON, JSONL) and the pictures in them, whatever form they have."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from megatron_eureka.data.decoding import decode
from megatron_eureka.data.records import BadRow


def read_rows(path: Path) -> Iterator[dict]:
    """The rows of a file.

    Raises:
        ValueError: another kind of file, or a broken one.
    """
    if path.suffix == ".parquet":
        yield from _read_parquet(path)
    elif path.suffix == ".jsonl":
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _parse(line, f"{path}:{number}")
    elif path.suffix == ".json":
        rows = _parse(path.read_bytes(), str(path))
        if not isinstance(rows, list):
            raise ValueError(
                f"{path}: expected a list of rows, got {type(rows).__name__}. Give a row a line as .jsonl."
            )
        yield from rows
    else:
        raise ValueError(f"{path}: unknown kind {path.suffix!r}. Give .parquet, .json or .jsonl files.")


def _read_parquet(path: Path) -> Iterator[dict]:
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=64):  # 64 rows' pictures in memory
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not readable as parquet: {error}") from error


def _parse(text: bytes, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # UTF-8 that is none is a ValueError too
        raise ValueError(f"{place}: not valid JSON: {error}") from error


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
    file = root / value.removeprefix("file://")
    try:
        if len(value) < 1024 and os.path.isfile(file):  # a name that is too long is no file, where Path raises
            return file.read_bytes()
        return base64.b64decode(value.partition("base64,")[2] or value, validate=True)
    except (OSError, binascii.Error) as error:
        raise BadRow("picture", f"{value[:80]!r} is neither a file in {root} nor base64") from error


def save_picture(data: bytes, folder: Path) -> str:
    """Write a picture under a name that follows from its content, unchanged; returns the name.

    Raises:
        BadRow: it is no readable picture.
    """
    try:
        kind = (decode(data).format or "png").lower()
    except ValueError as error:
        raise BadRow("picture", str(error)) from error
    name = f"{hashlib.sha256(data).hexdigest()[:24]}.{kind}"
    target = folder / name
    if not target.exists():
        temporary = target.with_name(f"{name}.tmp")
        temporary.write_bytes(data)
        os.replace(temporary, target)
    return name

"""Turn rows of question, answer and pictures (the public MMK12 data set, say) into training JSONL and picture files.

    python examples/data/k12_to_jsonl.py mmk12/data/train-*.parquet --out data/mmk12/train.jsonl

Inputs are .parquet files (needs pyarrow), .json files (a list of rows) or .jsonl files (a row a line). A picture is
`{"bytes": ..., "path": ...}` as Hugging Face's `datasets` stores it, encoded bytes, a base64 text or data URI, or a
path relative to the input file; a row may have none, one or a list of them. `<image>` in a question says where a
picture stands; pictures without one come first. Rows that cannot be used are counted and named.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

PLACEHOLDER = "<image>"
SYSTEM = (
    "Think about the question step by step first, then give the final answer. Put the thinking between <think> and "
    "</think> and the answer between <answer> and </answer>, mathematics in LaTeX between $ signs: "
    "<think> ... </think><answer> $...$ </answer>"
)
MAX_NAMED = 20  # rows left out that are named one by one


class BadRow(ValueError):
    """A row that cannot become a training prompt; its first argument names the kind."""

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind = kind


def read_rows(path: Path) -> Iterator[dict]:
    """The rows of a file.

    Raises:
        ValueError: another kind of file, a broken one, or parquet without pyarrow.
    """
    if path.suffix == ".parquet":
        yield from _read_parquet(path)
    elif path.suffix == ".jsonl":
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _parse(line, f"{path}:{number}")
    elif path.suffix == ".json":
        rows = _parse(path.read_text(encoding="utf-8"), str(path))
        if not isinstance(rows, list):
            raise ValueError(
                f"{path}: expected a list of rows, got {type(rows).__name__}. Give a row a line as .jsonl."
            )
        yield from rows
    else:
        raise ValueError(f"{path}: unknown kind {path.suffix!r}. Give .parquet, .json or .jsonl files.")


def _read_parquet(path: Path) -> Iterator[dict]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise ValueError(f"{path}: reading parquet needs pyarrow. Install it: python -m pip install pyarrow") from None
    for batch in parquet.ParquetFile(path).iter_batches(batch_size=64):  # pictures of 64 rows at a time in memory
        yield from batch.to_pylist()


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{place}: not valid JSON: {error}") from error


def picture_bytes(value: Any, root: Path) -> bytes:
    """The encoded picture behind one value of a row; see the module's description for its forms."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if not isinstance(value, str) or not value:
        raise BadRow("picture", f"a picture is {type(value).__name__}, expected bytes, base64 or a path")
    file = root / value.removeprefix("file://")
    try:
        if len(value) < 1024 and file.is_file():
            return file.read_bytes()
        return base64.b64decode(value.partition("base64,")[2] or value, validate=True)
    except (OSError, binascii.Error) as error:
        raise BadRow("picture", f"{value[:80]!r} is neither a file in {root} nor base64") from error


def save_picture(data: bytes, folder: Path) -> str:
    """Write a picture under a name that follows from its content, unchanged; returns the name."""
    try:
        with Image.open(BytesIO(data)) as picture:
            kind = (picture.format or "png").lower()
            picture.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadRow("picture", f"not a readable picture: {error}") from error
    name = f"{hashlib.sha256(data).hexdigest()[:24]}.{kind}"
    target = folder / name
    if not target.exists():
        temporary = target.with_name(f"{name}.tmp")
        temporary.write_bytes(data)
        os.replace(temporary, target)
    return name


def question_parts(question: str, pictures: list[str]) -> list[dict]:
    """A turn's content: text and pictures in their order."""
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


def convert_row(row: Any, options: argparse.Namespace, root: Path, default_id: str) -> dict:
    """One line of the output; its pictures are written."""
    if not isinstance(row, dict):
        raise BadRow("row", f"expected a mapping, got {type(row).__name__}")
    question, answer = row.get(options.question), row.get(options.answer)
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = str(answer)
    if not isinstance(question, str) or not question.strip():
        raise BadRow("question", f"no text under {options.question!r}; the row has {sorted(row)}")
    if not isinstance(answer, str) or not answer.strip():
        raise BadRow("answer", f"no text or number under {options.answer!r}; the row has {sorted(row)}")
    values = row.get(options.image)
    values = [] if values is None else values if isinstance(values, list) else [values]
    names = [save_picture(picture_bytes(value, root), options.images) for value in values]
    sources = [os.path.relpath(options.images / name, options.out.parent) for name in names]
    turns = [{"role": "user", "content": question_parts(question, sources)}]
    if options.system:
        turns.insert(0, {"role": "system", "content": options.system})
    return {
        "id": str(row.get(options.id) or default_id),
        "message": json.dumps(turns, ensure_ascii=False),
        "answer": answer.strip(),
    }


def all_rows(inputs: list[Path]) -> Iterator[tuple[Path, int, Any]]:
    """(file, number of the row in it, row) of all inputs."""
    for path in inputs:
        for number, row in enumerate(read_rows(path)):
            yield path, number, row


def convert(options: argparse.Namespace) -> Counter[str]:
    """Write the output and return how many rows were written and left out, by reason.

    Raises:
        ValueError: an input cannot be read, or no row is left.
    """
    options.images.mkdir(parents=True, exist_ok=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = options.out.with_name(options.out.name + ".tmp")
    counts: Counter[str] = Counter()
    with temporary.open("w", encoding="utf-8") as file:
        for path, number, row in all_rows(options.inputs):
            place = f"{path.name}:{number}"
            try:
                record = convert_row(row, options, path.parent, place)
            except BadRow as error:
                counts[error.kind] += 1
                if counts.total() - counts["written"] <= MAX_NAMED:
                    print(f"left out: {place}: {error}", file=sys.stderr)
                continue
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            counts["written"] += 1
            if counts["written"] == options.limit:
                break
    if not counts["written"]:
        temporary.unlink()
        raise ValueError(f"No row of {len(options.inputs)} files could be used: {dict(counts) or 'they are empty'}.")
    os.replace(temporary, options.out)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", type=Path, metavar="FILE", help=".parquet, .json or .jsonl")
    parser.add_argument("--out", required=True, type=Path, help="JSONL file to write")
    parser.add_argument("--images", type=Path, help="folder for the pictures; default: images beside OUT")
    parser.add_argument("--id", default="id", help="name of the id's column (default: %(default)s)")
    parser.add_argument("--question", default="question", help="name of the question's column (default: %(default)s)")
    parser.add_argument("--answer", default="answer", help="name of the answer's column (default: %(default)s)")
    parser.add_argument("--image", default="image", help="name of the pictures' column (default: %(default)s)")
    parser.add_argument(
        "--system", default=SYSTEM, help="system turn of every prompt; empty: none (default: %(default)s)"
    )
    parser.add_argument("--limit", type=int, default=0, help="stop after so many rows; 0: all")
    options = parser.parse_args()
    options.images = options.images or options.out.parent / "images"
    try:
        counts = convert(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    left_out = {kind: number for kind, number in counts.items() if kind != "written"}
    print(f"{counts['written']} prompts in {options.out}, pictures in {options.images}; left out: {left_out or 'none'}")


if __name__ == "__main__":
    main()

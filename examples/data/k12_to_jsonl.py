"""Turn rows of question, answer and pictures (the public MMK12 data set, say) into training JSONL and picture files.

    python examples/data/k12_to_jsonl.py mmk12/data/train-*.parquet --out data/mmk12/train.jsonl

Inputs are .parquet files, .json files (a list of rows) or .jsonl files (a row a line). A picture is
`{"bytes": ..., "path": ...}` as Hugging Face's `datasets` stores it, encoded bytes, a base64 text or data URI, or a
path relative to the input file; a row may have none, one or a list of them. `<image>` in a question says where a
picture stands; pictures without one come first. Rows that cannot be used are counted and named.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_eureka.data.rows import BadRow, picture_bytes, read_rows, save_picture

PLACEHOLDER = "<image>"
SYSTEM = (
    "Think about the question step by step first, then give the final answer. Put the thinking between <think> and "
    "</think> and the answer between <answer> and </answer>, mathematics in LaTeX between $ signs: "
    "<think> ... </think><answer> $...$ </answer>"
)
MAX_NAMED = 20  # rows left out that are named one by one


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

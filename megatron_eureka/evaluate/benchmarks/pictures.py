"""Pictures of a benchmark: paths beside its file, or bytes in its table, which become files."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_eureka.answers.choices import LETTERS
from megatron_eureka.answers.notation import to_ascii
from megatron_eureka.data.decoding import read_header
from megatron_eureka.data.refusal import BadRow
from megatron_eureka.data.rows import MAX_PATH, picture_bytes, picture_name
from megatron_eureka.evaluate.item import Malformed
from megatron_eureka.files import write_atomically


class Pictures:
    """Turns a row's picture into a source that prompts can name.

    Args:
        folder: where bytes go, under names that follow from them; None: they are looked at and not kept.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder

    def source(self, value: Any, roots: Sequence[Path]) -> str:
        """An absolute path; without a folder a name of the content stands for it.

        Args:
            value: `{"bytes": ..., "path": ...}` as Hugging Face's `datasets` stores it, encoded bytes, a base64 text
                or data URI, or a path relative to one of `roots`.

        Raises:
            Malformed: none of these, or no picture; the header alone is read.
        """
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, str) and len(value) < MAX_PATH and not value.startswith("data:"):
            for root in roots:
                file = root / value.removeprefix("file://")
                if os.path.lexists(file):  # a name that is too long is no file, where Path raises
                    _read(file, root)
                    return str(file)
        data, kind = _read(value, roots[0])
        return self._keep(data, kind)

    def _keep(self, data: bytes, kind: str) -> str:
        digest = hashlib.sha256(data).hexdigest()[:24]
        if self.folder is None:
            return f"sha256-{digest}.{kind}"
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder.resolve() / f"{digest}.{kind}"
        if not target.exists():
            write_atomically(target, data, sync=False)
        return str(target)


def _read(value: Any, root: Path) -> tuple[bytes, str]:
    """The encoded picture and its format."""
    value = str(value) if isinstance(value, Path) else value
    try:
        data = picture_bytes(value, root)
        kind = read_header(data).kind
    except BadRow as error:
        raise Malformed("picture", str(error)) from error
    except ValueError as error:
        raise Malformed("picture", f"{picture_name(value)} is {error}") from error
    return data, kind


def user_turn(text: str, pictures: Mapping[str, str]) -> tuple[dict, ...]:
    """One user turn, pictures at their placeholders' first places; those without one come first, in their order.

    Args:
        text: the question.
        pictures: placeholder in the text -> source.
    """
    places = {name: text.find(name) for name in pictures}
    parts: list[dict] = [{"type": "image", "image": pictures[name]} for name, at in places.items() if at < 0]
    inside = sorted((at, name) for name, at in places.items() if at >= 0)
    start = 0
    for at, name in inside:
        parts += _text_part(text[start:at])
        parts.append({"type": "image", "image": pictures[name]})
        start = at + len(name)
    parts += _text_part(text[start:])
    return ({"role": "user", "content": parts},)


def _text_part(text: str) -> list[dict]:
    return [{"type": "text", "text": text.strip()}] if text.strip() else []


def with_options(question: str, choices: Sequence[str]) -> str:
    """The question and its options as lettered lines."""
    lines = [f"({chr(ord('A') + number)}) {choice}" for number, choice in enumerate(choices)]
    return "\n".join([question, *lines]) if lines else question


_OPTION_LINE = re.compile(r"^[ \t]*\(?([A-J])[.:),][ \t]*(\S.*)$", re.MULTILINE)
_OPTION_MARK = re.compile(r"(?<![\w\\'∠△⊙])\(?([A-J])[.)]\s*(?=\S)")


def options_in(question: str) -> tuple[str, ...]:
    """Texts of the options A, B, ... that stand in a question, on lines of their own or in one line; () if none do."""
    question = to_ascii(question)
    found = [(match.group(1), match.group(2).strip()) for match in _OPTION_LINE.finditer(question)]
    letters = "".join(letter for letter, _ in found)
    if len(found) > 1 and LETTERS.startswith(letters):
        return tuple(text for _, text in found)
    return _options_inline(question)


def _options_inline(question: str) -> tuple[str, ...]:
    marks = list(_OPTION_MARK.finditer(question))
    starts = [number for number, mark in enumerate(marks) if mark.group(1) == "A"]
    marks = marks[starts[-1] :] if starts else []
    if len(marks) < 2 or not LETTERS.startswith("".join(mark.group(1) for mark in marks)):
        return ()
    ends = [*(mark.start() for mark in marks[1:]), len(question)]
    texts = [question[mark.end() : end].strip(" \t\n;,") for mark, end in zip(marks, ends, strict=True)]
    return tuple(text.split("\n")[0] for text in texts) if all(texts) else ()

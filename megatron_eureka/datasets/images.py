"""Images of rows, whatever form they have: found, and kept as files that are named by their content."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_eureka.data.bad_row import BadRow, bad_row
from megatron_eureka.data.decoding import decode, image_kind, read_header
from megatron_eureka.data.image_files import read_image_file
from megatron_eureka.files import write_atomically

MAX_PATH = 1024  # characters; what is longer is base64
MAX_SHOWN = 80  # characters of one in a message


def find_image(value: Any, roots: Sequence[Path]) -> tuple[bytes, Path | None]:
    """The encoded image behind one value of a row, and its file where it has one.

    Args:
        value: `{"bytes": ..., "path": ...}` as Hugging Face's `datasets` stores it, encoded bytes, a base64 text or
            data URI, or a path relative to one of `roots`.

    Raises:
        BadRow: none of these.
    """
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes | bytearray):
        return bytes(value), None
    if not isinstance(value, str) or not value:
        raise BadRow("image", f"an image is {type(value).__name__}, expected bytes, base64 or a path")
    if value.startswith(("http://", "https://")):
        raise BadRow("image", f"{value[:80]}: images are read from disk only. Download it and give its path")
    if len(value) < MAX_PATH:  # a name that is too long is no file, where Path raises
        files = [root / value.removeprefix("file://") for root in roots]
        file = next(filter(os.path.isfile, files), None) or next(filter(os.path.lexists, files), None)
        if file:
            with bad_row("image"):
                return read_image_file(file), file
    try:
        return base64.b64decode(value.partition("base64,")[2] or value, validate=True), None
    except ValueError as error:
        raise BadRow("image", f"{value[:80]!r} is neither a file in {roots[0]} nor base64") from error


def image_name(value: Any) -> str:
    """What to call one value of a row in a message."""
    name = value.get("path") if isinstance(value, dict) else value
    is_path = isinstance(name, str) and 0 < len(name) < MAX_PATH and not name.startswith("data:")
    shown = name if not is_path or len(name) <= MAX_SHOWN else f"...{name[-MAX_SHOWN:]}"  # a path's end tells more
    return f"the image {shown!r}" if is_path else "the row's image"


class ImageFolder:
    """Turns values of rows into files that prompts can name.

    Args:
        folder: where images go, unchanged, under names that follow from their content; None: they are looked at and
            not kept.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder

    def copy(self, value: Any, roots: Sequence[Path]) -> str:
        """The name in the folder of an image that is decoded completely before it is written.

        Raises:
            BadRow: there is no readable image; as `find_image`.
        """
        data, _ = find_image(value, roots)
        with bad_row("image", f"{image_name(value)} is "):
            kind = image_kind(decode(data))
        return self._keep(data, kind)

    def source(self, value: Any, roots: Sequence[Path]) -> str:
        """An absolute path: of the image's own file, else of one in the folder; without a folder, its name there.

        Raises:
            BadRow: there is no image; the header alone is read. As `find_image`.
        """
        data, file = find_image(value, roots)
        with bad_row("image", f"{image_name(value)} is "):
            kind = read_header(data).kind
        if file:
            return str(file)
        name = self._keep(data, kind)
        return str(self.folder.resolve() / name) if self.folder else name

    def _keep(self, data: bytes, kind: str) -> str:
        name = f"{hashlib.sha256(data).hexdigest()[:24]}.{kind}"
        if self.folder and not (self.folder / name).exists():
            write_atomically(self.folder / name, data, sync=False)
        return name

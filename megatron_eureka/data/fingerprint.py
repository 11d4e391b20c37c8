"""What makes two questions, or two pictures, the same although their bytes differ."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import imagehash
import numpy as np
from PIL import Image

# Of 64 bits. Line drawings after JPEG or scaling differ by 4 at most, distinct ones by 10 at least (measured on random
# triangles with letters, JPEG quality 60 to 90, scale 0.6 to 1).
MAX_DISTANCE = 4
ROWS_AT_ONCE = 4096  # of a table of distances; 4096 x 10,000 hashes are 330 MB


@dataclass(frozen=True)
class Picture:
    """A decoded picture: the hash of its file, the perceptual hash of what it shows, and its size."""

    digest: str
    shape_hash: int  # 64-bit pHash; 0: nothing on it to tell it from others
    width: int
    height: int
    num_bytes: int


def fingerprint(data: bytes) -> Picture:
    """Decode a picture completely.

    Raises:
        ValueError: it is no readable picture.
    """
    try:
        with Image.open(BytesIO(data)) as picture:
            perceptual = int(str(imagehash.phash(picture)), 16)
            width, height = picture.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"not a readable picture: {error}") from error
    plain = perceptual.bit_count() <= 1  # one colour: the constant term alone
    return Picture(hashlib.sha256(data).hexdigest(), 0 if plain else perceptual, width, height, len(data))


def normalise_text(text: str) -> str:
    """Without case, width of letters, white space, and punctuation that is no mathematics."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return "".join(sign for sign in text if not sign.isspace() and sign not in ".,;:!?\"'`。、「」")


def look_alikes(
    first: Sequence[int], second: Sequence[int], max_distance: int = MAX_DISTANCE
) -> list[tuple[int, int, int]]:
    """(index in first, index in second, distance) of all pairs of perceptual hashes that are near; 0 is near nothing.

    Args:
        max_distance: bits in which two hashes may differ.
    """
    left, right = np.array(first, np.uint64), np.array(second, np.uint64)
    found = []
    for start in range(0, len(left) if len(right) else 0, ROWS_AT_ONCE):
        rows = left[start : start + ROWS_AT_ONCE]
        distances = np.bitwise_count(rows[:, None] ^ right[None, :])  # [rows, second] bits
        near = (distances <= max_distance) & (rows != 0)[:, None] & (right != 0)[None, :]
        found += [(start + int(row), int(column), int(distances[row, column])) for row, column in np.argwhere(near)]
    return found

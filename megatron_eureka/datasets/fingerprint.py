"""What makes two questions, or two images, the same although their bytes differ."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import imagehash
import numpy as np

from megatron_eureka.data.decoding import decode, on_white

HASH_SIZE = 16  # frequencies in each direction: 256 bits
# Of 1,500 random triangles with letters, the same after JPEG (quality 60 to 90) and scaling (0.5 to 1) differed in 16
# bits at most, two distinct ones in 34 at least. 64 bits do not tell line drawings apart.
MAX_DISTANCE = 20
WORDS = HASH_SIZE**2 // 64
ROWS_AT_ONCE = 1024  # of a table of distances; 1024 x 10,000 words are 82 MB


@dataclass(frozen=True)
class Fingerprint:
    """A decoded image: the hash of its file, the perceptual hash of what it shows, and its size."""

    digest: str
    shape_hash: int  # pHash; 0: nothing on it to tell it from others
    width: int
    height: int
    num_bytes: int
    blank: bool = False  # every pixel has the same colour


def fingerprint(data: bytes) -> Fingerprint:
    """Decode an image completely.

    Raises:
        ValueError: it is no readable image.
    """
    image = decode(data)
    width, height = image.size
    seen = on_white(image)
    perceptual = int(str(imagehash.phash(seen, hash_size=HASH_SIZE)), 16)
    plain = perceptual.bit_count() <= 1  # one colour: the constant term alone
    blank = all(low == high for low, high in seen.getextrema())
    return Fingerprint(hashlib.sha256(data).hexdigest(), 0 if plain else perceptual, width, height, len(data), blank)


def normalize_text(text: str) -> str:
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
    left, right = _words(first), _words(second)  # [hashes, words]
    found = []
    for start in range(0, len(left) if len(right) else 0, ROWS_AT_ONCE):
        rows = left[start : start + ROWS_AT_ONCE]
        distances = sum(  # [rows, second] bits
            np.bitwise_count(rows[:, None, word] ^ right[None, :, word]).astype(np.uint16) for word in range(WORDS)
        )
        near = (distances <= max_distance) & rows.any(axis=1)[:, None] & right.any(axis=1)[None, :]
        found += [(start + int(row), int(column), int(distances[row, column])) for row, column in np.argwhere(near)]
    return found


def _words(hashes: Sequence[int]) -> np.ndarray:
    data = b"".join(value.to_bytes(8 * WORDS, "little") for value in hashes)
    return np.frombuffer(data, np.uint64).reshape(len(hashes), WORDS)

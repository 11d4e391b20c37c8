"""Encoded images -> decoded ones; whatever is wrong with the bytes is one kind of error."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, UnidentifiedImageError


@dataclass(frozen=True)
class Header:
    """What an image says of itself."""

    kind: str  # "png", "jpeg", ...: how its file's name may end
    width: int
    height: int


def read_header(data: bytes) -> Header:
    """Format and size, without decoding; of a PNG the chunks' checksums are checked too.

    Raises:
        ValueError: it is no readable image.
    """
    try:
        with Image.open(BytesIO(data)) as header:
            found = Header(image_kind(header), *header.size)
            if header.format == "PNG":
                header.verify()
    except Exception as error:  # as in decode
        raise ValueError(_unreadable(error)) from error
    return found


def decode(data: bytes) -> Image.Image:
    """The image, decoded completely.

    Raises:
        ValueError: it is no readable image.
    """
    try:
        image = Image.open(BytesIO(data))
        image.load()
    # Each of PIL's formats raises its own: OSError, SyntaxError, a bomb's error, RuntimeError (AVIF),
    # NotImplementedError (DDS), struct.error. Nothing but PIL runs here, so all of them are about the bytes.
    except Exception as error:
        raise ValueError(_unreadable(error)) from error
    return image


def image_kind(image: Image.Image) -> str:
    """As `Header.kind`, of a decoded image."""
    return (image.format or "png").lower()


def _unreadable(error: Exception) -> str:
    """PIL names the object that holds the bytes, and its address, where it would name a file."""
    reason = "no format that Pillow knows" if isinstance(error, UnidentifiedImageError) else error
    return f"not a readable image: {reason}"


def on_white(image: Image.Image) -> Image.Image:
    """The image in RGB as it looks on paper: what is transparent becomes white, not the black that is stored there.

    More than 8 bits are scaled to 8: 16-bit levels are divided by 257; 32-bit ones too where one exceeds 255; of
    floats, 0 to 1 becomes 0 to 255, and others are cut off at 0 and 255. RGBA is laid on white as the resizer would do.

    Raises:
        ValueError: nobody knows what its colours are.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _eight_bits(image)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
    if image.mode != "RGBA":
        return image.convert("RGB")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white


def _eight_bits(image: Image.Image) -> Image.Image:
    levels = np.nan_to_num(np.asarray(image).astype(np.float64))
    if image.mode == "F":
        scaled = levels * 255 if levels.min() >= 0 and levels.max() <= 1 else levels
    else:
        scaled = levels / 257 if image.mode != "I" or levels.max() > 255 else levels
    if image.info.get("transparency") is not None:  # the one level that stands for nothing
        scaled[levels == image.info["transparency"]] = 255
    return Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8))

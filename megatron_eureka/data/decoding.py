"""Encoded pictures -> decoded ones; whatever is wrong with the bytes is one kind of error."""

from __future__ import annotations

from io import BytesIO

from PIL import Image


def read_size(data: bytes) -> tuple[int, int]:
    """Width and height from the header, without decoding; of a PNG the chunks' checksums are checked too.

    Raises:
        ValueError: it is no readable picture.
    """
    try:
        with Image.open(BytesIO(data)) as header:
            size = header.size
            if header.format == "PNG":
                header.verify()
    except Exception as error:  # as in decode
        raise ValueError(f"not a readable picture: {error}") from error
    return size


def decode(data: bytes) -> Image.Image:
    """The picture, decoded completely.

    Raises:
        ValueError: it is no readable picture.
    """
    try:
        picture = Image.open(BytesIO(data))
        picture.load()
    # Each of PIL's formats raises its own: OSError, SyntaxError, a bomb's error, RuntimeError (AVIF),
    # NotImplementedError (DDS), struct.error. Nothing but PIL runs here, so all of them are about the bytes.
    except Exception as error:
        raise ValueError(f"not a readable picture: {error}") from error
    return picture


def on_white(picture: Image.Image) -> Image.Image:
    """The picture as it looks on paper: what is transparent becomes white, and not the black that is stored there."""
    if not picture.has_transparency_data:
        return picture
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)

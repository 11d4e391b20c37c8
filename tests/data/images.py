"""Images for the tests of data sets: triangles with letters, which look different, and re-encoded ones."""

import random
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw


def triangle(seed: int, size: tuple[int, int] = (240, 180)) -> Image.Image:
    rng = random.Random(seed)
    image = Image.new("RGB", size, "white")
    corners = [(rng.randint(10, size[0] - 10), rng.randint(10, size[1] - 10)) for _ in range(3)]
    draw = ImageDraw.Draw(image)
    draw.polygon(corners, outline="black", width=2)
    for corner, letter in zip(corners, "ABC", strict=True):
        draw.text(corner, letter, fill="black")
    return image


def encoded(image: Image.Image, kind: str = "PNG", scale: float = 1.0, **options: int) -> bytes:
    data = BytesIO()
    size = (round(image.width * scale), round(image.height * scale))
    image.resize(size).save(data, kind, **options)
    return data.getvalue()


def drawing_in(mode: str, seed: int = 1) -> Image.Image:
    """The triangle as files of that mode hold it; where there is transparency, black ink on nothing."""
    gray = triangle(seed).convert("L")
    level = np.asarray(gray)
    if mode in ("RGBA", "LA", "P"):
        ink = Image.new("RGBA", gray.size, "black")
        ink.putalpha(gray.point(lambda value: 255 - value))
        return ink.quantize(16) if mode == "P" else ink if mode == "RGBA" else ink.convert("LA")
    if mode == "I;16":
        return Image.fromarray(level.astype(np.uint16) * 257)
    if mode in ("I", "I of 8 bits"):
        return Image.fromarray(level.astype(np.int32) * (257 if mode == "I" else 1))
    return Image.fromarray(level.astype(np.float32) / (255 if mode == "F" else 1))

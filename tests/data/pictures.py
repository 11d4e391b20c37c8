"""Pictures for the tests of data sets: triangles with letters, which look different, and re-encoded ones."""

import random
from io import BytesIO

from PIL import Image, ImageDraw


def triangle(seed: int, size: tuple[int, int] = (240, 180)) -> Image.Image:
    rng = random.Random(seed)
    picture = Image.new("RGB", size, "white")
    corners = [(rng.randint(10, size[0] - 10), rng.randint(10, size[1] - 10)) for _ in range(3)]
    draw = ImageDraw.Draw(picture)
    draw.polygon(corners, outline="black", width=2)
    for corner, letter in zip(corners, "ABC", strict=True):
        draw.text(corner, letter, fill="black")
    return picture


def encoded(picture: Image.Image, kind: str = "PNG", scale: float = 1.0, **options: int) -> bytes:
    data = BytesIO()
    size = (round(picture.width * scale), round(picture.height * scale))
    picture.resize(size).save(data, kind, **options)
    return data.getvalue()

"""How images are resized for the image processors here: to whole visual tokens, between bounds of the area."""

from __future__ import annotations

from PIL import Image
from qwen_vl_utils import fetch_image
from qwen_vl_utils.vision_process import MAX_RATIO, smart_resize

__all__ = ["MAX_RATIO", "resize", "resized_size"]  # longer images than MAX_RATIO times their width are refused


def resized_size(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """(height, width) after resizing.

    Args:
        factor: pixels along a side of a visual token.

    Raises:
        ValueError, ZeroDivisionError: the image is too long and narrow.
    """
    return smart_resize(height, width, factor, min_pixels, max_pixels)


def resize(image: Image.Image, min_pixels: int, max_pixels: int, patch_size: int) -> Image.Image:
    """The RGB image in the size that `resized_size` gives."""
    bounds = {"min_pixels": min_pixels, "max_pixels": max_pixels}
    return fetch_image({"image": image, **bounds}, image_patch_size=patch_size)

"""How vLLM is told of the images that come."""

from __future__ import annotations

from typing import Any

MIN_PIXELS = 28 * 28  # one visual token


def engine_images(max_images: int, max_pixels: int) -> dict[str, Any]:
    """Keywords of `vllm.LLM`.

    Args:
        max_images: of one prompt.
        max_pixels: of one image.
    """
    return {
        "limit_mm_per_prompt": {"image": max_images, "video": 0},
        # Images come resized: bounds that hold for every one of them leave them as they are.
        "mm_processor_kwargs": {"size": {"shortest_edge": MIN_PIXELS, "longest_edge": max_pixels}},
    }

"""M-RoPE positions of a token stream with images. Pure arithmetic on numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from megatron_eureka.config.model_info import ModelInfo

GridTHW = tuple[int, int, int]


def mrope_positions(token_ids: Sequence[int], grids: Sequence[GridTHW], info: ModelInfo) -> tuple[torch.Tensor, int]:
    """Positions (time, height, width) of every token, and the position that the next token takes.

    A text token advances all three axes by one. The placeholders of an image spread over its merged grid, starting at
    the current position; the text after it goes on from there by the larger side of that grid (Qwen2-VL, section 2.1).

    Args:
        token_ids: [tokens], each image as the full run of its placeholders.
        grids: patches in time, height and width of each image, before the spatial merge.
        info: gives the placeholder's id and the patches that a visual token takes along each side.

    Returns:
        positions: [3, tokens] int64; next position: int.

    Raises:
        ValueError: the placeholders do not match the grids.
    """
    image_token_id, merge_size = info.image_token_id, info.vision.spatial_merge_size
    pieces: list[torch.Tensor] = []
    remaining = iter(grids)
    at, position, num_tokens = 0, 0, len(token_ids)
    while at < num_tokens:
        if token_ids[at] == image_token_id:
            grid = next(remaining, None)
            if grid is None:
                raise ValueError(f"The prompt has placeholders of more than the {len(grids)} images given.")
            time, height, width = grid[0], grid[1] // merge_size, grid[2] // merge_size
            count = time * height * width
            if any(token != image_token_id for token in token_ids[at : at + count]) or at + count > num_tokens:
                raise ValueError(f"An image of grid {grid} needs {count} placeholders in a row at token {at}.")
            axes = (torch.arange(time), torch.arange(height), torch.arange(width))
            pieces.append(torch.cartesian_prod(*axes).reshape(count, 3).T + position)
            at, position = at + count, position + max(height, width)
        else:
            end = at
            while end < num_tokens and token_ids[end] != image_token_id:
                end += 1
            pieces.append(torch.arange(position, position + end - at).expand(3, -1))
            at, position = end, position + end - at
    if next(remaining, None) is not None:
        raise ValueError(f"{len(grids)} images were given, the prompt has placeholders of fewer.")
    return torch.cat(pieces, dim=1) if pieces else torch.zeros(3, 0, dtype=torch.int64), position

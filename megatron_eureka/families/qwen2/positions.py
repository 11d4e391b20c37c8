"""Positions of a text."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from megatron_eureka.config.model_info import ModelInfo


def text_positions(token_ids: Sequence[int], grids: Sequence[tuple], info: ModelInfo) -> tuple[torch.Tensor, int]:
    """Every token's place on all of the three axes that rows have.

    Args:
        token_ids: [tokens].
        grids: of images; there are none.

    Returns:
        positions: [3, tokens] int64; next position: int.
    """
    assert not grids, "images in a prompt of a model that reads text alone"
    return torch.arange(len(token_ids)).expand(3, -1), len(token_ids)

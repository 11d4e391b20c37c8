"""Qwen2.5-VL on Megatron-Core."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from megatron_eureka.families.source import ModelSource
from megatron_eureka.model.chunk import Chunk
from megatron_eureka.model.tower import build_tower
from megatron_eureka.parallel.groups import device


class Qwen2_5_VL(Chunk):
    """transformers' vision tower beside the embedding, on the first chunk."""

    def __init__(self, source: ModelSource, *args: Any):
        super().__init__(source, *args)
        if self.pre_process:
            self.visual = build_tower(AutoConfig.from_pretrained(source.hf), self.config.params_dtype, device())

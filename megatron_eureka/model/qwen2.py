"""Qwen2 and Qwen2.5 on Megatron-Core: text alone."""

from megatron_eureka.model.chunk import Chunk


class Qwen2(Chunk):
    """Embedding, decoder and head, as every chunk has them."""

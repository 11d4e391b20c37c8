"""What is particular to a kind of model, in one record."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from megatron_eureka.config.model_info import ModelInfo
from megatron_eureka.families.rules import Rule


@dataclass(frozen=True)
class Family:
    """A kind of model, known by the `model_type` of its config.json.

    Classes and functions that import torch, transformers, Megatron-Core or vLLM are given as "module:name", and
    `named` imports them where they are needed.
    """

    name: str  # `model_type` in config.json
    title: str  # as its authors write it
    architecture: str  # in `architectures` of config.json; vLLM's and transformers' name for the class
    sizes: Callable[[Mapping[str, Any]], ModelInfo]  # of the parsed config.json; KeyError with the missing entry
    unsupported: Callable[[Mapping[str, Any]], Iterator[str]]  # sentences about entries that the trainer cannot follow
    rules: Callable[[ModelInfo], tuple[Rule, ...]]  # of all weights, in the order of the forward pass
    chunk: str  # a pipeline chunk on Megatron-Core, a `model.chunk.Chunk`
    transformers_class: str
    vllm_class: str
    positions: str  # (token ids, grids of the images, ModelInfo) -> [3, tokens] int64, and the next token's position
    published: Mapping[str, ModelInfo] = field(default_factory=dict)  # by their names on the hub
    image_processors: tuple[str, ...] = ()  # transformers' names of the one it has; (): text alone
    newer_prefixes: tuple[tuple[str, str], ...] = ()  # of names in newer transformers, and what stands on disk
    engine_images: Callable[[int, int], dict[str, Any]] | None = None  # (images a prompt, pixels) -> vLLM's arguments

    def named(self, what: str) -> Any:
        """The class or function behind one of the fields that hold "module:name"."""
        return pkgutil.resolve_name(getattr(self, what))

"""The language in which a family describes its weights: each Megatron parameter, and what it is made of.

A rule says how a tensor-parallel rank's parameter is concatenated from cuts of Hugging Face tensors; `weights/` takes
both directions from the same list of cuts, so an inverse cannot disagree with its forward.

Names on the Megatron side carry global layer numbers. The names under Transformer Engine's layer spec are canonical;
`Rule.alias` is the name under Megatron-Core's local spec. Names on the Hugging Face side are those on disk.
"""

from __future__ import annotations

from dataclasses import dataclass

VISUAL = "visual."  # how names of a vision tower begin, on both sides


@dataclass(frozen=True)
class HfTensor:
    """A tensor of a Hugging Face checkpoint."""

    name: str  # as on disk
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Rule:
    """How one Megatron parameter is laid out.

    Along `tp_dim` every source tensor falls into cuts of equal size, one for each of `groups` groups or, by default,
    for each tensor-parallel rank. A rank takes consecutive groups, and in each a cut of every source: with one group a
    rank this is [gate_r; up_r]. With a group for each key-value head it is the interleave of Megatron's qkv, here of 4
    query heads and 2 key-value heads over 2 ranks:

        q_proj, k_proj, v_proj    | q0 | q1 | q2 | q3 |    | k0 | k1 |    | v0 | v1 |
                                  '-- g 0 --'-- g 1 --'    '-g 0'-g 1'    '-g 0'-g 1'

        linear_qkv                | q0 | q1 | k0 | v0 | q2 | q3 | k1 | v1 |
                                  '-- group 0, rank 0 --'-- group 1, rank 1 --'
    """

    name: str  # Megatron's, Transformer Engine spec
    sources: tuple[HfTensor, ...]  # in the order in which they stand in a group
    tp_dim: int | None  # dim that tensor parallelism cuts; None: replicated
    groups: int | None = None  # cuts of each source; None: the tensor-parallel size
    alias: str | None = None  # the same parameter under Megatron-Core's local spec
    exported: bool = True  # False: a copy of another rule's parameter, which is the one to export
    vision: bool = False  # of the vision tower, which GRPO keeps as it is


def replicated(name: str, hf_name: str, shape: tuple[int, ...], alias: str | None = None, vision: bool = False) -> Rule:
    """A parameter that every tensor-parallel rank holds whole, and that is one Hugging Face tensor."""
    return Rule(name, (HfTensor(hf_name, shape),), tp_dim=None, alias=alias, vision=vision)

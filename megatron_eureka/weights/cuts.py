"""What a rule means for one tensor-parallel rank: cuts of Hugging Face tensors, and both directions from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from megatron_eureka.config.model_info import ModelInfo
from megatron_eureka.families.rules import VISUAL, HfTensor, Rule
from megatron_eureka.weights.table import rules_by_name


@dataclass(frozen=True)
class Cut:
    """A range of a Hugging Face tensor, and where it lies in a rank's parameter; both along `Rule.tp_dim` (or 0)."""

    source: HfTensor
    start: int  # in the source
    size: int
    offset: int  # in the rank's parameter


def cut_dim(rule: Rule) -> int:
    """The dim that a rule's cuts are along."""
    return 0 if rule.tp_dim is None else rule.tp_dim


def cuts(rule: Rule, tp_rank: int, tp_size: int) -> tuple[Cut, ...]:
    """The cuts that, concatenated, are the parameter of `tp_rank`. The caller has checked that `tp_size` divides."""
    dim = cut_dim(rule)
    if rule.tp_dim is None:
        groups, mine = 1, range(1)
    else:
        groups = rule.groups or tp_size
        assert groups % tp_size == 0, f"{rule.name}: {groups} groups over {tp_size} ranks"
        mine = range(tp_rank * groups // tp_size, (tp_rank + 1) * groups // tp_size)
    result, offset = [], 0
    for group in mine:
        for source in rule.sources:
            size = source.shape[dim] // groups
            result.append(Cut(source, group * size, size, offset))
            offset += size
    return tuple(result)


def shard_shape(rule: Rule, tp_size: int) -> tuple[int, ...]:
    """Shape of one rank's parameter."""
    dim = cut_dim(rule)
    shape = list(rule.sources[0].shape)
    shape[dim] = sum(cut.size for cut in cuts(rule, 0, tp_size))
    return tuple(shape)


def hf_to_shard(rule: Rule, tensors: Mapping[str, torch.Tensor], tp_rank: int, tp_size: int) -> torch.Tensor:
    """A rank's parameter from full Hugging Face tensors; contiguous, dtype as given."""
    dim = cut_dim(rule)
    taken = [tensors[cut.source.name].narrow(dim, cut.start, cut.size) for cut in cuts(rule, tp_rank, tp_size)]
    return torch.cat(taken, dim)


def shards_to_hf(rule: Rule, shards: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Full Hugging Face tensors from the parameters of all tensor-parallel ranks, in order of rank.

    A replicated parameter may be given once.
    """
    dim = cut_dim(rule)
    like = shards[0]
    result = {source.name: like.new_empty(source.shape) for source in rule.sources}
    for tp_rank, shard in enumerate(shards[:1] if rule.tp_dim is None else shards):
        for cut in cuts(rule, tp_rank, len(shards)):
            result[cut.source.name].narrow(dim, cut.start, cut.size).copy_(shard.narrow(dim, cut.offset, cut.size))
    return result


def match_rules(parameters: Mapping[str, torch.Tensor], info: ModelInfo, tp_size: int) -> dict[str, Rule]:
    """The rule of each parameter of a rank, by the name that it was given under, either layer spec's.

    Raises:
        ValueError: a parameter has no rule or another shape, or was given under both of its names.
    """
    known, rules, names = rules_by_name(info), {}, {}
    for name, tensor in parameters.items():
        rule = known.get(name)
        if rule is None:
            tower = f" and {VISUAL}* with blocks 0 to {info.vision.depth - 1}" if info.vision else ""
            raise ValueError(
                f"No rule for parameter {name!r} of shape {list(tensor.shape)}. Known are language_model.* with layers "
                f"0 to {info.num_layers - 1}{tower}."
            )
        if rule.name in names:
            raise ValueError(f"{name!r} and {names[rule.name]!r} are the same parameter; give one of them.")
        expected = shard_shape(rule, tp_size)
        if tuple(tensor.shape) != expected:
            raise ValueError(
                f"Parameter {name!r} has shape {list(tensor.shape)}, expected {list(expected)} at tensor-parallel "
                f"size {tp_size}: the model was built from other sizes than {info.hidden_size} x {info.num_layers}."
            )
        rules[name], names[rule.name] = rule, name
    return rules

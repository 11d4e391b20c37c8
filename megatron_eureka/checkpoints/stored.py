"""What a Megatron checkpoint stores: the full tensors of `torch_dist`, and which cuts of them a rank holds.

Megatron-Core's distributed checkpoint knows no tensor-parallel size: it stores each parameter as it would be on a
single rank, with the decoder layers stacked along a leading dim, and a rank reads the cuts that are its own. All of
it follows from the table: the tensor of a single rank is `cuts(rule, 0, 1)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from megatron_eureka.config.model_info import ModelInfo
from megatron_eureka.weights.cuts import Cut, cuts, shard_shape
from megatron_eureka.weights.table import Rule, table

LAYERS = "language_model.decoder.layers."
# Modules for which some layer spec of some Megatron-Core asks for an `_extra_state`, here always empty.
_LAYER_MODULES = (
    "self_attention.linear_qkv",
    "self_attention.linear_proj",
    "self_attention.core_attention",
    "mlp.linear_fc1",
    "mlp.linear_fc2",
)


@dataclass(frozen=True)
class Stored:
    """A tensor of a checkpoint, or one layer of a stacked one."""

    key: str  # Megatron-Core's, without a layer number
    layer: int | None  # index on the leading dim; None: not stacked
    shape: tuple[int, ...]  # without the leading dim

    @property
    def key_of_layer(self) -> str:
        """The key where layers are stored one by one (Megatron-Core's `non_homogeneous_layers`)."""
        return self.key if self.layer is None else f"{LAYERS}{self.layer}.{self.key.removeprefix(LAYERS)}"

    def full_shape(self, num_layers: int) -> tuple[int, ...]:
        """Shape in the checkpoint."""
        return self.shape if self.layer is None else (num_layers, *self.shape)

    def stacked(self, numbers: tuple[int, ...], leading: int) -> tuple[int, ...]:
        """Starts or sizes of a box within one layer, with that of the leading dim in front where there is one."""
        return numbers if self.layer is None else (leading, *numbers)


def stored_tensor(rule: Rule) -> Stored:
    """Where a rule's parameter lies in a checkpoint."""
    shape = shard_shape(rule, tp_size=1)
    if not rule.name.startswith(LAYERS):
        return Stored(rule.name, None, shape)
    number, rest = rule.name.removeprefix(LAYERS).split(".", 1)
    return Stored(LAYERS + rest, int(number), shape)


def stored_rules(info: ModelInfo) -> tuple[Rule, ...]:
    """The rules whose parameters a checkpoint holds: a tied head is not stored a second time."""
    return tuple(rule for rule in table(info) if rule.exported)


def extra_state_keys(num_layers: int) -> Iterator[str]:
    """Keys of the empty objects that Megatron-Core's linears, or Transformer Engine's, want to find."""
    for layer in range(num_layers):
        for module in _LAYER_MODULES:
            yield f"{LAYERS}{module}._extra_state/shard_{layer}_{num_layers}"
    yield "language_model.decoder.final_layernorm._extra_state/shard_0_1"


def stored_cuts(rule: Rule, tp_rank: int = 0, tp_size: int = 1) -> tuple[Cut, ...]:
    """The cuts of a tensor-parallel rank, `Cut.offset` being that in the stored tensor."""
    whole = cuts(rule, 0, 1)

    def offset(cut: Cut) -> int:
        around = next(w for w in whole if w.source == cut.source and w.start <= cut.start < w.start + w.size)
        assert cut.start + cut.size <= around.start + around.size, f"{rule.name}: {cut} crosses the end of a group"
        return around.offset + cut.start - around.start

    return tuple(replace(cut, offset=offset(cut)) for cut in cuts(rule, tp_rank, tp_size))


def adjacent_cuts(rule: Rule, tp_rank: int, tp_size: int) -> Iterator[tuple[Cut, ...]]:
    """A rank's cuts, together as long as they follow one another in the stored tensor without a gap.

    Gate and up are apart even where they touch, for Megatron-Core loads them one by one.
    """
    together: list[Cut] = []
    for cut in stored_cuts(rule, tp_rank, tp_size):
        if together and (rule.groups is None or cut.offset != together[-1].offset + together[-1].size):
            yield tuple(together)
            together = []
        together.append(cut)
    yield tuple(together)


def pipeline_stage(rule: Rule, num_layers: int, pp_size: int, vpp_size: int) -> int:
    """The stage that holds a parameter; chunks of layers interleave over the stages."""
    layer = stored_tensor(rule).layer
    if layer is not None:
        return layer // (num_layers // (pp_size * vpp_size)) % pp_size
    is_last = rule.name.startswith(("language_model.decoder.final_layernorm", "language_model.output_layer"))
    return pp_size - 1 if is_last else 0

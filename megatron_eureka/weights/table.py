"""The one table of weights: each Megatron parameter, the Hugging Face tensors it is made of, and how.

Everything that moves weights (loading, export, the live sync, offline tools) reads `table`. A rule says how a
tensor-parallel rank's parameter is concatenated from cuts of Hugging Face tensors; both directions follow from the same
list of cuts (`layout.py`), so an inverse cannot disagree with its forward.

Names on the Megatron side carry global layer numbers and the prefix `language_model.` or `visual.`. The names under
Transformer Engine's layer spec are canonical; `Rule.alias` is the name under Megatron-Core's local spec. Names on the
Hugging Face side are those on disk (`model.*`, `visual.*`, `lm_head.weight`).
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron_eureka.config.model_info import ModelInfo, VisionInfo

# Counted up whenever a name or a layout changes: what an older table wrote would be read wrongly.
TABLE_VERSION = 1
EMBEDDING = "model.embed_tokens.weight"


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


def table(info: ModelInfo) -> tuple[Rule, ...]:
    """All rules of a model, in the order of the forward pass: tower, embedding, layers, final norm, head."""
    embedding = HfTensor(EMBEDDING, (info.vocab_size, info.hidden_size))
    head = embedding if info.tied else HfTensor("lm_head.weight", embedding.shape)
    return (
        *_tower(info.vision),
        Rule("language_model.embedding.word_embeddings.weight", (embedding,), tp_dim=0),
        *(rule for layer in range(info.num_layers) for rule in _layer(info, layer)),
        _copy("language_model.decoder.final_layernorm.weight", "model.norm.weight", (info.hidden_size,)),
        # Tied, this exists only on the last of several stages, as a copy that Megatron allocates zero-filled.
        Rule("language_model.output_layer.weight", (head,), tp_dim=0, exported=not info.tied),
    )


def hf_tensors(info: ModelInfo) -> dict[str, HfTensor]:
    """What a checkpoint of the model holds, by name, in table order: each tensor once."""
    return {tensor.name: tensor for rule in table(info) if rule.exported for tensor in rule.sources}


def rules_by_name(info: ModelInfo) -> dict[str, Rule]:
    """Rules by the Megatron name, under either layer spec."""
    rules = table(info)
    return {rule.name: rule for rule in rules} | {rule.alias: rule for rule in rules if rule.alias}


def normalise_hf_name(name: str) -> str:
    """The on-disk name of a tensor that newer transformers may hold as `model.language_model.*` or `model.visual.*`."""
    for prefix, short in (("model.language_model.", "model."), ("model.visual.", "visual.")):
        if name.startswith(prefix):
            return short + name[len(prefix) :]
    return name


def check_tp_size(info: ModelInfo, tp_size: int) -> None:
    """Refuse a tensor-parallel size that does not divide what it cuts.

    Raises:
        ValueError: naming the size that is not divisible.
    """
    cut = {"num_kv_heads": info.num_kv_heads, "ffn_size": info.ffn_size, "vocab_size": info.vocab_size}
    for name, size in cut.items():
        if size % tp_size:
            raise ValueError(
                f"Tensor-parallel size {tp_size} does not divide the model's {name} of {size}. "
                f"Choose a size that divides {', '.join(f'{key} {value}' for key, value in cut.items())}."
            )


def _copy(name: str, hf_name: str, shape: tuple[int, ...], alias: str | None = None) -> Rule:
    return Rule(name, (HfTensor(hf_name, shape),), tp_dim=None, alias=alias)


def _layer(info: ModelInfo, layer: int) -> tuple[Rule, ...]:
    hidden, ffn = info.hidden_size, info.ffn_size
    q_rows, kv_rows = info.num_heads * info.head_dim, info.num_kv_heads * info.head_dim
    ours, theirs = f"language_model.decoder.layers.{layer}.", f"model.layers.{layer}."
    rows = (("q", q_rows), ("k", kv_rows), ("v", kv_rows))

    def qkv(kind: str, *more: int) -> Rule:
        sources = tuple(HfTensor(f"{theirs}self_attn.{p}_proj.{kind}", (size, *more)) for p, size in rows)
        return Rule(f"{ours}self_attention.linear_qkv.{kind}", sources, tp_dim=0, groups=info.num_kv_heads)

    def norm(fused_into: str, local: str, hf_name: str) -> Rule:
        name = f"{ours}{fused_into}.layer_norm_weight"
        return _copy(name, f"{theirs}{hf_name}.weight", (hidden,), alias=f"{ours}{local}.weight")

    def columns(name: str, hf_name: str, size: int) -> Rule:
        return Rule(f"{ours}{name}.weight", (HfTensor(f"{theirs}{hf_name}.weight", (hidden, size)),), tp_dim=1)

    gate_up = tuple(HfTensor(f"{theirs}mlp.{part}_proj.weight", (ffn, hidden)) for part in ("gate", "up"))
    return (
        norm("self_attention.linear_qkv", "input_layernorm", "input_layernorm"),
        qkv("weight", hidden),
        qkv("bias"),
        columns("self_attention.linear_proj", "self_attn.o_proj", q_rows),
        norm("mlp.linear_fc1", "pre_mlp_layernorm", "post_attention_layernorm"),
        Rule(f"{ours}mlp.linear_fc1.weight", gate_up, tp_dim=0),
        columns("mlp.linear_fc2", "mlp.down_proj", ffn),
    )


def _tower(vision: VisionInfo) -> tuple[Rule, ...]:
    """The tower is transformers' own module, replicated: every name maps to itself."""
    hidden, ffn = vision.hidden_size, vision.ffn_size
    merged = hidden * vision.spatial_merge_size**2
    patch = (vision.in_channels, vision.temporal_patch_size, vision.patch_size, vision.patch_size)
    block = {"norm1.weight": (hidden,), "norm2.weight": (hidden,)}
    for name, rows, columns in (
        ("attn.qkv", 3 * hidden, hidden),
        ("attn.proj", hidden, hidden),
        ("mlp.gate_proj", ffn, hidden),
        ("mlp.up_proj", ffn, hidden),
        ("mlp.down_proj", hidden, ffn),
    ):
        block |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
    shapes = {"patch_embed.proj.weight": (hidden, *patch)}
    shapes |= {f"blocks.{index}.{name}": shape for index in range(vision.depth) for name, shape in block.items()}
    shapes |= {
        "merger.ln_q.weight": (hidden,),
        "merger.mlp.0.weight": (merged, merged),
        "merger.mlp.0.bias": (merged,),
        "merger.mlp.2.weight": (vision.out_hidden_size, merged),
        "merger.mlp.2.bias": (vision.out_hidden_size,),
    }
    return tuple(_copy(f"visual.{name}", f"visual.{name}", shape) for name, shape in shapes.items())

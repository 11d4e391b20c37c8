"""What a model's config.json may ask for that the trainer does not compute: refused by name, for nothing else shows it.

The engine and transformers follow these entries, Megatron-Core's layers as they are built here do not: shapes and names
fit, a run goes through, and the two sides' probabilities differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

ORIGINAL = "Give the model's original weights: quantised ones cannot be trained."


def unsupported(raw: Mapping[str, Any], plain_rope: Sequence[str] = ("default",)) -> Iterator[str]:
    """Sentences about entries that would make the trainer compute another model than the engine.

    Args:
        raw: the parsed config.json.
        plain_rope: names of the frequencies without an extension, the last one as the published files have it.
    """
    # Since 4.52 the language model's entries stand in a section of their own; many files have them at the top as well.
    for prefix, section in (("", raw), ("text_config.", raw.get("text_config") or {})):
        yield from _rope(prefix, section, plain_rope)
        yield from _layers(prefix, section)
    method = raw.get("quantization_config")
    if method:
        name = method.get("quant_method", "unknown") if isinstance(method, Mapping) else method
        yield f"quantization_config: the weights are quantised ({name}). {ORIGINAL}"


def _rope(prefix: str, section: Mapping[str, Any], plain: Sequence[str]) -> Iterator[str]:
    for key in ("rope_scaling", "rope_parameters"):
        rope = section.get(key) or {}
        if not isinstance(rope, Mapping):
            yield f"{prefix}{key} is {rope!r}, expected a mapping such as {{'type': {plain[-1]!r}}}."
            continue
        for name in ("rope_type", "type"):
            kind = rope.get(name, "default")
            if kind not in plain:
                yield (
                    f"{prefix}{key}.{name} is {kind!r}: the engine scales the rotary positions so, the trainer has "
                    f"only {' and '.join(plain)}, and their probabilities would differ. Set it to {plain[-1]!r} and "
                    "remove its factors, to train and to use the model without the extension."
                )
        if rope.get("partial_rotary_factor", 1.0) != 1.0:
            yield f"{prefix}{key}.partial_rotary_factor is {rope['partial_rotary_factor']!r}, the trainer has only 1."


def _layers(prefix: str, section: Mapping[str, Any]) -> Iterator[str]:
    if section.get("use_sliding_window"):
        yield (
            f"{prefix}use_sliding_window is true: the trainer attends to all earlier tokens in every layer, so its "
            "probabilities would differ from the engine's. Set it to false, to train and to use the model without "
            "windows."
        )
    elif "sliding_attention" in (section.get("layer_types") or ()):
        yield f"{prefix}layer_types names 'sliding_attention', the trainer has only 'full_attention'."
    if section.get("hidden_act", "silu") != "silu":
        yield f"{prefix}hidden_act is {section['hidden_act']!r}, the trainer has only 'silu'."
    head_dim, hidden, heads = (section.get(key) for key in ("head_dim", "hidden_size", "num_attention_heads"))
    if head_dim and hidden and heads and head_dim * heads != hidden:
        yield (
            f"{prefix}head_dim is {head_dim}: transformers and the engine take hidden_size {hidden} / "
            f"num_attention_heads {heads} instead. Remove it."
        )

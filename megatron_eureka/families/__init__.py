"""The kinds of models that can be trained, and what a path or a config.json is of them.

A new one is a folder here with a `FAMILY`, a line in `FAMILIES`, and its chunk in `model/`. Nothing else in the package
names a model. Importing this room costs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron_eureka.config.model_info import ModelInfo
from megatron_eureka.families.family import Family
from megatron_eureka.families.qwen2 import QWEN2
from megatron_eureka.families.qwen2_5_vl import QWEN2_5_VL

FAMILIES: dict[str, Family] = {family.name: family for family in (QWEN2_5_VL, QWEN2)}
TITLES = " or ".join(family.title for family in FAMILIES.values())
PUBLISHED: dict[str, ModelInfo] = {
    name: info for family in FAMILIES.values() for name, info in family.published.items()
}


def family_of(info: ModelInfo) -> Family:
    """The family of a model."""
    return FAMILIES[info.family]


def read_sizes(raw: Any, origin: str = "config") -> ModelInfo:
    """Sizes from a parsed config.json, in its older flat form or with a `text_config` section.

    Raises:
        ValueError: it is of no known family, lacks a size, or asks for what the trainer does not compute.
    """
    kind = raw.get("model_type") if isinstance(raw, dict) else None
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise ValueError(f"{origin}: model_type is {kind!r}, expected {' or '.join(map(repr, FAMILIES))}.")
    try:
        rejected = [f"{origin}: {sentence}" for sentence in family.unsupported(raw)]
        info = None if rejected else family.sizes(raw)
    except KeyError as error:
        raise ValueError(f"{origin}: {error.args[0]!r} is missing.") from error
    except (TypeError, AttributeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{origin}: an entry is no size of a model: {error}.") from error
    if info is None:
        raise ValueError("\n".join(rejected))
    _check_sizes(info, origin)
    return info


def on_disk_name(name: str) -> str:
    """The on-disk name of a tensor that newer transformers may hold under another one."""
    for family in FAMILIES.values():
        for prefix, on_disk in family.newer_prefixes:
            if name.startswith(prefix):
                return on_disk + name[len(prefix) :]
    return name


_NO_SIZES = {"family", "rms_norm_eps", "rope_theta", "mrope_section", "tied", "vision"}


def _check_sizes(info: ModelInfo, origin: str) -> None:
    sizes: Mapping[str, Any] = vars(info) | (vars(info.vision) if info.vision else {})
    if info.vision is None:
        sizes = {name: value for name, value in sizes.items() if value is not None}
    for name, value in sizes.items():
        if name not in _NO_SIZES and (type(value) is not int or value < 0):
            raise ValueError(f"{origin}: an entry is no size of a model: {name} is {value!r}.")

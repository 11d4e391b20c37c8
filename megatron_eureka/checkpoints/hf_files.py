"""Which files of a Hugging Face folder hold its weights: by the index, or without one by what lies there."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from megatron_eureka.families.folder import ADAPTER_WEIGHTS

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_NUMBERED = re.compile(r"(.*)-(\d+)-of-(\d+)\.safetensors")


def read_index(folder: Path) -> dict[str, str]:
    """Files by tensor; empty where there is no index.

    Raises:
        ValueError: it is damaged, or names other files than the one that transformers would take.
    """
    index = folder / INDEX
    if not index.is_file():
        return {}
    try:
        weight_map = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        if not weight_map or not all(isinstance(file, str) for file in weight_map.values()):
            raise ValueError("weight_map names no files")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{index} is damaged ({error!r}); download the folder again.") from error
    if (folder / SINGLE).is_file() and SINGLE not in weight_map.values():
        raise ValueError(
            f"{folder} holds {SINGLE} beside {INDEX}, which names other files: it is not clear which weights are meant "
            "(transformers would take the single file). Remove one of the two."
        )
    return weight_map


def find_files(folder: Path, weight_map: Mapping[str, str]) -> list[Path]:
    """The files of weights, in order.

    Args:
        weight_map: see `read_index`. If it is empty, every safetensors file that lies there counts, as for vLLM.

    Raises:
        ValueError: there is none, one is missing, or a file lies there that does not belong to the others.
    """
    if weight_map:
        names = sorted(set(weight_map.values()))
        for name in names:
            if not (folder / name).is_file():
                raise ValueError(f"{folder / name} is missing, though {INDEX} names it.")
        return [folder / name for name in names]
    names = sorted(file.name for file in folder.glob("*.safetensors"))
    if not names:
        older = sorted(file.name for file in folder.glob("pytorch_model*.bin"))
        hint = f" Write {older[0]} anew as safetensors, with transformers' save_pretrained." if older else ""
        raise ValueError(f"{folder} holds neither {INDEX} nor {SINGLE}: no weights are there.{hint}")
    unknown = [name for name in names if name == ADAPTER_WEIGHTS or (SINGLE in names and name != SINGLE)]
    if unknown:
        raise ValueError(
            f"{folder} holds {unknown[0]} beside {next(name for name in names if name not in unknown)} and no "
            "index: vLLM would load both as one model. Move it away."
        )
    _check_numbers(folder, names)
    return [folder / name for name in names]


def _check_numbers(folder: Path, names: list[str]) -> None:
    """Without an index only the names of files say how many there are."""
    for match in filter(None, map(_NUMBERED.fullmatch, names)):
        stem, digits, total = match[1], len(match[2]), int(match[3])
        for number in range(1, total + 1):
            name = f"{stem}-{number:0{digits}d}-of-{match[3]}.safetensors"
            if name not in names:
                raise ValueError(f"{folder / name} is missing, though {match[0]} says that there are {total} files.")

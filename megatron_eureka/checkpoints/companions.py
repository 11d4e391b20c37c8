"""The small files beside the weights: a model's config, tokenizer and processor, and what a Megatron checkpoint is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from megatron_eureka.families.companions import companion_problems
from megatron_eureka.families.folder import ADAPTER_CONFIG, HF_PART
from megatron_eureka.families.source import ModelSource
from megatron_eureka.log import logger
from megatron_eureka.weights.table import TABLE_VERSION

DESCRIPTION = "megatron_eureka.json"  # in a Megatron checkpoint
_SUFFIXES = {".json", ".jinja", ".txt", ".model"}  # config, tokenizer, processor, generation config, chat template


def copy_companions(like: str | Path, target: Path, dtype: torch.dtype | None = None) -> None:
    """Copy a Hugging Face folder's files other than weights, with `dtype`, if given, put into the config."""
    for file in sorted(Path(like).iterdir()):
        if file.name == ADAPTER_CONFIG:  # what is left of a merged one: transformers would load its base model instead
            continue
        if file.is_file() and file.suffix in _SUFFIXES and not file.name.endswith(".index.json"):
            shutil.copyfile(file, target / file.name)
    for file in sorted(Path(like).glob("additional_chat_templates/*.jinja")):
        (target / file.parent.name).mkdir(exist_ok=True)
        shutil.copyfile(file, target / file.parent.name / file.name)
    if dtype is not None:
        _set_dtype(target / "config.json", str(dtype).removeprefix("torch."))


def _set_dtype(file: Path, name: str) -> None:
    text = file.read_text(encoding="utf-8")
    config, before = json.loads(text), json.loads(text)
    old_key = "torch_dtype" in config and "dtype" not in config
    config["torch_dtype" if old_key else "dtype"] = name
    for section in ("text_config", "vision_config"):
        for key in ("dtype", "torch_dtype"):
            if key in config.get(section, {}):
                config[section][key] = name
    if config != before:  # else the file stays as it is, to the byte
        file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def warn_of_companions(source: ModelSource) -> None:
    """Name what a folder lacks for a run, before a conversion makes another folder that lacks it."""
    for problem in companion_problems(source.hf, source.family):
        logger.warning("The weights are converted, but no run can start from the result: %s", problem)


@dataclass(frozen=True)
class Description:
    """What a Megatron checkpoint of ours says of itself."""

    architecture: str
    table_version: int  # of the names and layouts in it
    layout: Mapping[str, int]  # sizes of the parallel axes for which its files were cut; any other one may load it
    weights_hash: str | None = None  # of its tensors, under their Hugging Face names; None: nobody has computed it
    source_hash: str | None = None  # of the tensors it was converted from, before a change of dtype
    format_version: int = 1


def describe(
    folder: Path,
    like: ModelSource,
    *,
    layout: Mapping[str, int],
    dtype: torch.dtype | None = None,
    weights_hash: str | None = None,
    source_hash: str | None = None,
) -> None:
    """Put into a Megatron checkpoint what makes it a model folder: its description and Hugging Face's small files.

    Args:
        folder: the checkpoint.
        like: the same model; its config, tokenizer and processor are copied.
        layout: sizes of the parallel axes for which the files are cut.
        dtype: put into the config, if given.
        weights_hash, source_hash: see `Description`.
    """
    architecture = like.family.architecture
    description = Description(architecture, TABLE_VERSION, dict(layout), weights_hash, source_hash)
    (folder / DESCRIPTION).write_text(json.dumps(asdict(description), indent=2) + "\n", encoding="utf-8")
    (folder / HF_PART).mkdir()
    copy_companions(like.hf, folder / HF_PART, dtype)


def check_same_model(given: ModelSource, checkpoint: Path) -> None:
    """Refuse to read a checkpoint as another model than the one it says it is: equal shapes would not show it.

    Raises:
        ValueError: naming what differs.
    """
    own = checkpoint / HF_PART
    if not (own / "config.json").is_file():
        return
    theirs = ModelSource.open(own).info
    differing = [
        f"{name} ({value} and {vars(theirs)[name]})"
        for name, value in vars(given.info).items()
        if value != vars(theirs)[name]
    ]
    if differing:
        raise ValueError(
            f"{given.hf} and the config in {own} describe different models: they differ in {', '.join(differing)}. "
            "Give the folder that the checkpoint was made from."
        )


def read_description(folder: Path) -> Description | None:
    """A checkpoint's description; None where there is none, as in one that Megatron-Core wrote by itself.

    Raises:
        ValueError: it is damaged, or the checkpoint was written by another version of the table.
    """
    file = folder / DESCRIPTION
    if not file.is_file():
        return None
    try:
        description = Description(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {error}.") from error
    if description.table_version != TABLE_VERSION:
        raise ValueError(
            f"{folder} was written with version {description.table_version} of the table of weights, this program has "
            f"version {TABLE_VERSION}. Use the program that wrote it to convert it to a Hugging Face folder first."
        )
    return description

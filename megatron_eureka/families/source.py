"""A model on disk, looked at once and handed on: what kind of folder it is, of which family, and of which sizes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from megatron_eureka.config.model_info import ModelInfo
from megatron_eureka.families import PUBLISHED, TITLES, Family, family_of, read_sizes
from megatron_eureka.families.folder import ModelFolder, find_model_folder


@dataclass(frozen=True)
class ModelSource:
    """Where a model's weights and small files are, and what it is."""

    folder: ModelFolder | None  # None: a published model that is not here, for a plan
    info: ModelInfo

    @classmethod
    def open(cls, path: str | Path) -> ModelSource:
        """Look at a Hugging Face folder, or at a Megatron checkpoint that has the model's small files in it.

        Raises:
            ValueError: the folder or its config.json is missing, is not JSON, or describes what cannot be trained.
        """
        folder = find_model_folder(path)
        file = folder.hf / "config.json"
        try:
            raw = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{file} is not valid JSON: {error}") from error
        return cls(folder, read_sizes(raw, origin=str(file)))

    @property
    def family(self) -> Family:
        return family_of(self.info)

    @property
    def path(self) -> Path:
        """Where the weights are."""
        return self._here().path

    @property
    def hf(self) -> Path:
        """Where config, tokenizer and processor are."""
        return self._here().hf

    @property
    def has_hf_weights(self) -> bool:
        """Whether what reads Hugging Face folders can load it, such as an engine."""
        return self._here().kind == "hf"

    def _here(self) -> ModelFolder:
        assert self.folder is not None, "only sizes are known of a model that is not here"
        return self.folder


def find_source(path: str) -> ModelSource:
    """What `model.path` names: a folder or, for a plan, a published model that need not be here.

    Raises:
        ValueError: neither a folder nor a known name, or a folder of something else.
    """
    if Path(path).is_dir() or path not in PUBLISHED:
        if not Path(path).exists():
            known = ", ".join(PUBLISHED)
            raise ValueError(
                f"model.path = {path!r} is neither a folder nor a known model. Give a Hugging Face folder or a "
                f"Megatron checkpoint of a {TITLES} model, or for a plan one of: {known}."
            )
        return ModelSource.open(path)
    return ModelSource(None, PUBLISHED[path])

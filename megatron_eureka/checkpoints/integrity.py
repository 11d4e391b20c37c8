"""Are a checkpoint's bytes those that were written? To be asked by all ranks of a run together, each for a share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from megatron_eureka.checkpoints.companions import read_description
from megatron_eureka.checkpoints.conversion import hash_tensors, reject_other_hash
from megatron_eureka.checkpoints.stored import stored_rules, stored_tensor
from megatron_eureka.checkpoints.streaming import Streamer
from megatron_eureka.checkpoints.to_hf import stored_rows
from megatron_eureka.checkpoints.torch_dist_reader import TorchDistReader
from megatron_eureka.config.model_info import ModelInfo
from megatron_eureka.log import ByteProgress
from megatron_eureka.weights.table import hf_tensors


def check_share(folder: str | Path, info: ModelInfo, share: int, num_shares: int) -> dict[str, str]:
    """Read every `num_shares`-th parameter of a checkpoint, from `share` on.

    Returns:
        for a checkpoint that carries a hash, those of the tensors read, by Hugging Face name, for `check_hashes`; of
        another one nothing: its check sums have been verified.

    Raises:
        ValueError: a check sum differs; the file is named.
    """
    reader, description = TorchDistReader(folder), read_description(Path(folder))
    streamer = Streamer(1, ByteProgress("", 1))
    for rule in stored_rules(info)[share::num_shares]:
        stored = stored_tensor(rule)
        if description is None or description.weights_hash is None:
            reader.check_sums(stored)
            continue
        for source in rule.sources:
            for _ in stored_rows(reader, rule, source, streamer, reader.dtype(stored)):
                pass
    return dict(streamer.hashes())


def check_hashes(folder: str | Path, info: ModelInfo, hashes: Mapping[str, str]) -> None:
    """Hold the hashes of all shares against the one that the checkpoint carries.

    Raises:
        ValueError: they differ.
    """
    description = read_description(Path(folder))
    if description is None or description.weights_hash is None:
        return
    reader = TorchDistReader(folder)
    dtypes = {source.name: reader.dtype(stored_tensor(rule)) for rule in stored_rules(info) for source in rule.sources}
    reject_other_hash(folder, hash_tensors(hf_tensors(info), dtypes, hashes), description.weights_hash)

"""From a Megatron checkpoint to a Hugging Face folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

import torch

from megatron_eureka.checkpoints.companions import check_same_model, read_description, warn_of_companions
from megatron_eureka.checkpoints.conversion import Conversion, clear_errors, hash_tensors, reject_other_hash
from megatron_eureka.checkpoints.hf_writer import DEFAULT_FILE_BYTES, HfWriter
from megatron_eureka.checkpoints.new_folder import check_apart
from megatron_eureka.checkpoints.stored import stored_cuts, stored_rules, stored_tensor
from megatron_eureka.checkpoints.streaming import Streamer, default_workers
from megatron_eureka.checkpoints.torch_dist_reader import TorchDistReader
from megatron_eureka.families.source import ModelSource
from megatron_eureka.log import ByteProgress
from megatron_eureka.weights.cuts import Cut
from megatron_eureka.weights.table import HfTensor, Rule, hf_tensors


def megatron_to_hf(
    megatron: str | Path,
    hf: str | Path,
    *,
    like: str | Path | None = None,
    dtype: torch.dtype | None = None,
    workers: int | None = None,
    check_finite: bool = True,
    max_file_bytes: int = DEFAULT_FILE_BYTES,
    overwrite: bool = False,
    fsync: bool = False,
    dry_run: bool = False,
) -> Conversion:
    """Write a Hugging Face folder from a Megatron checkpoint, converted or of a run, written under any layout.

    All bytes are held against what was known of them: the hash that a converted checkpoint carries, or the check sums
    in the files of one that a run or Megatron-Core wrote.

    Args:
        megatron: the checkpoint.
        hf: the folder, which appears under this name when it is whole.
        like: Hugging Face folder of the same model, for config, tokenizer, processor and generation config; by
            default those inside the checkpoint.
        max_file_bytes: size from which a further file is begun.
        dtype, workers, check_finite, overwrite, fsync, dry_run: as in `hf_to_megatron`.

    Raises:
        ValueError: the checkpoint is damaged, incomplete or another model, the target exists, or the disk is too
            small. Nothing is left of the target.
        RuntimeError: the target could not be written.
    """
    megatron, hf = Path(megatron), Path(hf)
    reader, model = _open(megatron, like)
    info = model.info
    expected = getattr(read_description(megatron), "weights_hash", None)
    rules, tensors = stored_rules(info), hf_tensors(info)
    check_apart(megatron, hf)
    found = {source.name: reader.dtype(stored_tensor(rule)) for rule in rules for source in rule.sources}
    wanted = dict.fromkeys(tensors, dtype) if dtype else found
    writer = HfWriter(hf, model.hf, wanted, max_file_bytes, overwrite=overwrite, fsync=fsync)
    warn_of_companions(model)
    if dry_run:
        return Conversion(hf, len(tensors), writer.file_bytes)
    begin, num_bytes = time.monotonic(), sum(_num_bytes(tensor, found) for tensor in tensors.values())
    with clear_errors(hf), writer, ByteProgress(f"{megatron.name} to Hugging Face", num_bytes) as progress:
        streamer = Streamer(workers or default_workers(), progress, check_finite=check_finite)

        def work(rule: Rule) -> None:
            if expected is None:
                reader.check_sums(stored_tensor(rule))
            for source in rule.sources:
                name, row_elements = source.name, _row_elements(source)
                for row, data in stored_rows(reader, rule, source, streamer, wanted[name]):
                    writer.write_bytes(name, row * row_elements * wanted[name].itemsize, data)

        streamer.run(rules, work)
        reject_other_hash(megatron, hash_tensors(tensors, found, streamer.hashes(read=True)), expected)
    weights_hash = hash_tensors(tensors, wanted, streamer.hashes())
    return Conversion(hf, len(tensors), writer.file_bytes, time.monotonic() - begin, weights_hash)


def _open(megatron: Path, like: str | Path | None) -> tuple[TorchDistReader, ModelSource]:
    """A checkpoint that holds all of the model that its small files, or those of `like`, describe."""
    reader = TorchDistReader(megatron)
    model = ModelSource.open(like or megatron)
    check_same_model(model, megatron)
    reader.check_model([stored_tensor(rule) for rule in stored_rules(model.info)], model.info.num_layers)
    return reader, model


def stored_rows(
    reader: TorchDistReader, rule: Rule, source: HfTensor, streamer: Streamer, dtype: torch.dtype
) -> Iterator[tuple[int, memoryview]]:
    """A Hugging Face tensor out of a checkpoint, in blocks of rows.

    Yields:
        the first row of each block, and its bytes in `dtype`.
    """
    stored, row_elements = stored_tensor(rule), _row_elements(source)
    file = f"in {reader.file_of(stored)}"
    dtypes = (reader.dtype(stored), dtype)
    for cut in _row_cuts(rule, source):

        def read(row: int, target: memoryview, shift: int = cut.offset - cut.start) -> None:
            reader.read_rows(stored, row + shift, target)

        rows = range(cut.start, cut.start + cut.size)
        yield from streamer.blocks(source.name, rows, row_elements, dtypes, read, file)


def _row_cuts(rule: Rule, source: HfTensor) -> list[Cut]:
    """The cuts of a source along its rows, in order, with their offsets in the stored tensor."""
    if rule.tp_dim == 1:  # cut along columns: on a single rank it is the tensor as it is
        return [Cut(source, 0, source.shape[0], 0)]
    return sorted((cut for cut in stored_cuts(rule) if cut.source == source), key=attrgetter("start"))


def _row_elements(source: HfTensor) -> int:
    return torch.Size(source.shape[1:]).numel()


def _num_bytes(tensor: HfTensor, dtypes: dict[str, torch.dtype]) -> int:
    return torch.Size(tensor.shape).numel() * dtypes[tensor.name].itemsize

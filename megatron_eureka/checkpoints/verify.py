"""Hold a Megatron checkpoint and a Hugging Face folder against each other: every key, every tensor, every bit."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from megatron_eureka.checkpoints.companions import check_same_model, read_description
from megatron_eureka.checkpoints.conversion import clear_errors
from megatron_eureka.checkpoints.hf_reader import HfReader
from megatron_eureka.checkpoints.keys import check_hf_keys
from megatron_eureka.checkpoints.stored import stored_rules, stored_tensor
from megatron_eureka.checkpoints.streaming import Streamer, default_workers
from megatron_eureka.checkpoints.to_hf import stored_rows
from megatron_eureka.checkpoints.torch_dist_reader import TorchDistReader
from megatron_eureka.families.source import ModelSource
from megatron_eureka.log import ByteProgress
from megatron_eureka.weights.table import HfTensor, Rule, hf_tensors


@dataclass
class Difference:
    """How a tensor of the checkpoint differs from Hugging Face's, in Hugging Face's terms."""

    name: str
    num_elements: int
    num_different: int = 0
    first: tuple[int, ...] | None = None  # index of the first element that differs
    largest: float = 0.0  # absolute difference; NaN where one side is

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.num_different} of {self.num_elements} elements differ, the first at "
            f"{list(self.first or ())}, by up to {self.largest:.3g}"
        )


@dataclass(frozen=True)
class Verification:
    """What was compared, and what was found."""

    num_tensors: int
    num_bytes: int  # of the Hugging Face tensors
    cast: tuple[str, ...]  # tensors that are stored in another dtype, and were compared after the cast
    differences: tuple[Difference, ...]
    seconds: float

    @property
    def equal(self) -> bool:
        return not self.differences

    def __str__(self) -> str:
        size = f"{self.num_tensors} tensors, {self.num_bytes / 1e9:.3f} GB, {self.seconds:.1f} s"
        cast = f" ({len(self.cast)} of them after the cast to the stored dtype)" if self.cast else ""
        if self.equal:
            return f"equal, bit for bit: {size}{cast}"
        shown = "".join(f"\n  {difference}" for difference in self.differences[:20])
        more = f"\n  and {len(self.differences) - 20} more" if len(self.differences) > 20 else ""
        return f"DIFFERENT: {len(self.differences)} of {size}{cast}{shown}{more}"


def verify(hf: str | Path, megatron: str | Path, *, workers: int | None = None) -> Verification:
    """Compare all tensors of a Hugging Face folder with what a Megatron checkpoint holds, bit by bit.

    Bits, not values: 0.0 and -0.0 differ, and a NaN equals itself.

    Raises:
        ValueError: one of the two is damaged, incomplete, holds unknown tensors or has other shapes.
        RuntimeError: a file could not be read.
    """
    model, begin = ModelSource.open(hf), time.monotonic()
    info = model.info
    check_hf_keys(hf, info)
    source, checkpoint = HfReader(hf), TorchDistReader(megatron)
    read_description(checkpoint.folder)
    check_same_model(model, checkpoint.folder)
    rules, tensors = stored_rules(info), hf_tensors(info)
    checkpoint.check_model([stored_tensor(rule) for rule in rules], info.num_layers)
    num_bytes = sum(source.extent(name).num_bytes for name in tensors)
    found: dict[str, Difference] = {}
    lock = threading.Lock()
    with clear_errors(Path(megatron), "compared"), ByteProgress("comparing", num_bytes) as progress:
        streamer = Streamer(workers or default_workers(), progress)

        def work(rule: Rule) -> None:
            for tensor in rule.sources:
                difference = _compare(source, checkpoint, rule, tensor, streamer)
                if difference.num_different:
                    with lock:
                        found[tensor.name] = difference

        streamer.run(rules, work)
    cast = [
        t.name for rule in rules for t in rule.sources if source.dtype(t.name) != checkpoint.dtype(stored_tensor(rule))
    ]
    differences = tuple(found[name] for name in tensors if name in found)
    return Verification(len(tensors), num_bytes, tuple(cast), differences, time.monotonic() - begin)


def _compare(
    source: HfReader, checkpoint: TorchDistReader, rule: Rule, tensor: HfTensor, streamer: Streamer
) -> Difference:
    stored = checkpoint.dtype(stored_tensor(rule))
    row_elements = torch.Size(tensor.shape[1:]).numel()
    row_bytes = source.extent(tensor.name).row_bytes
    result = Difference(tensor.name, torch.Size(tensor.shape).numel())
    for row, data in stored_rows(checkpoint, rule, tensor, streamer, stored):
        num_rows = len(data) // (row_elements * stored.itemsize)
        block = bytearray(num_rows * row_bytes)
        source.read_bytes(tensor.name, row * row_bytes, memoryview(block))
        expected = torch.frombuffer(block, dtype=source.dtype(tensor.name)).to(stored)
        _count(result, expected, torch.frombuffer(data, dtype=stored), row, tensor.shape)
    return result


def _count(result: Difference, expected: torch.Tensor, got: torch.Tensor, row: int, shape: tuple[int, ...]) -> None:
    bits = torch.int16 if expected.dtype.itemsize == 2 else torch.int32
    if torch.equal(expected.view(bits), got.view(bits)):
        return
    different = expected.view(bits) != got.view(bits)
    if not result.num_different:
        first = int(different.nonzero()[0]) + row * torch.Size(shape[1:]).numel()
        result.first = tuple(int(index) for index in torch.unravel_index(torch.tensor(first), shape))
    result.num_different += int(different.sum())
    distance = (expected[different].double() - got[different].double()).abs().max()
    result.largest = max(result.largest, float(distance)) if distance == distance else float("nan")

"""Move tensors block by block on a few threads: what both directions of a conversion and the verification share."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

import torch
import xxhash

from megatron_eureka.checkpoints.finite import all_finite, num_not_finite
from megatron_eureka.log import ByteProgress

BLOCK_BYTES = 1 << 20  # small enough to stay in a core's cache between reading and writing
Job = TypeVar("Job")
# (row to start at, memory to fill with whole rows)
ReadRows = Callable[[int, memoryview], None]


def default_workers() -> int:
    """Threads that are worth it: a few saturate memory and disk."""
    return min(4, len(os.sched_getaffinity(0)))


class Stopped(Exception):
    """Another thread has failed."""


class Streamer:
    """Threads, and what they find on the way.

    Args:
        workers: number of threads.
        progress: told of each block.
        check_finite: refuse infinities and NaN.
    """

    def __init__(self, workers: int, progress: ByteProgress, *, check_finite: bool = False) -> None:
        self._workers, self._progress, self._check_finite = workers, progress, check_finite
        self._stop = threading.Event()
        self._local = threading.local()
        self._hashes: tuple[dict, dict] = ({}, {})  # by tensor: of what was read, of what a cast made of it

    def run(self, jobs: Sequence[Job], work: Callable[[Job], None]) -> None:
        """Call `work` with each job. The first failure is raised, once the other threads have stopped."""
        with ThreadPoolExecutor(self._workers) as pool:
            futures = [pool.submit(work, job) for job in jobs]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def blocks(
        self,
        name: str,
        rows: range,
        row_elements: int,
        dtypes: tuple[torch.dtype, torch.dtype],
        read: ReadRows,
        where: object = "",
    ) -> Iterator[tuple[int, memoryview]]:
        """Read rows in blocks, cast them, and take them into the tensor's hashes; those of one tensor come in order.

        Args:
            name: of the tensor.
            rows: those of a cut.
            row_elements: elements of a row.
            dtypes: of what `read` gives, and of what is wanted.
            where: file, for messages.

        Yields:
            the first row of each block, and its bytes in the wanted dtype, valid until the next one.

        Raises:
            ValueError: a value is not finite (with `check_finite`), or does not fit into the wanted dtype.
        """
        found, wanted = dtypes
        row_bytes = row_elements * found.itemsize
        step = max(1, BLOCK_BYTES // row_bytes)
        for first in range(rows.start, rows.stop, step):
            if self._stop.is_set():
                raise Stopped
            block = self._buffer(min(step, rows.stop - first) * row_bytes)
            read(first, block)
            self._hash(0, name, block)
            data = self._cast(block, found, wanted, f"{name!r} {where}, from row {first} on,")
            if found != wanted:
                self._hash(1, name, data)
            yield first, data
            self._progress.advance(len(block))

    def hashes(self, *, read: bool = False) -> Mapping[str, str]:
        """Hexadecimal XXH3-128 of each tensor's bytes: as they came out, or as they were read."""
        found, cast = self._hashes
        return {name: value.hexdigest() for name, value in (found if read else found | cast).items()}

    def _buffer(self, num_bytes: int, use: str = "read") -> memoryview:
        """Memory of this thread's own, used again for each block."""
        buffers = self._local.__dict__
        if len(buffers.get(use, b"")) < num_bytes:
            buffers[use] = bytearray(max(num_bytes, BLOCK_BYTES))
        return memoryview(buffers[use])[:num_bytes]

    def _hash(self, which: int, name: str, data: memoryview) -> None:
        if name not in self._hashes[which]:
            self._hashes[which][name] = xxhash.xxh3_128()
        self._hashes[which][name].update(data)

    def _cast(self, block: memoryview, found: torch.dtype, wanted: torch.dtype, what: str) -> memoryview:
        if found == wanted and not self._check_finite:
            return block
        values = torch.frombuffer(block, dtype=found)
        finite = all_finite(values)
        if self._check_finite and not finite:
            raise ValueError(
                f"{what} holds {num_not_finite(values)} values that are infinite or no numbers. Give sound weights; "
                "to convert them as they are, use --no-check-finite."
            )
        if found == wanted:
            return block
        result = self._buffer(len(values) * wanted.itemsize, "cast")
        cast = torch.frombuffer(result, dtype=wanted).copy_(values)
        if not all_finite(cast) and (finite or not torch.equal(cast.isfinite(), values.isfinite())):
            raise ValueError(f"{what} holds values too large for {wanted}. Choose another dtype.")
        return result


def hash_weights(tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...], str]]) -> str:
    """One hash of a whole model, independent of how files cut or order it.

    Args:
        tensors: dtype, shape and hash of the bytes of each tensor, by its name on disk.
    """
    lines = [f"{name} {dtype} {list(shape)} {value}\n" for name, (dtype, shape, value) in sorted(tensors.items())]
    return f"xxh3-128:{xxhash.xxh3_128(''.join(lines).encode()).hexdigest()}"

"""How long do the conversion tools take, and how much memory? Beside `cp -r` of the same bytes, and beside mbridge.

    python tools/bench/convert.py --size 0.5b
    python tools/bench/convert.py --size 3b --workers 1 2 --fsync --mbridge-python mbridge/bin/python --json 3b.json

A random bf16 checkpoint is made first (random_checkpoint.py). Then each repeat runs every program once, one after the
other, in a process of its own with one OpenMP thread, so that noise of the machine hits all alike. Before each run the
last output is deleted, dirty pages are written back (`sync`), and the page cache of the source is made warm or cold.
Then come some idle seconds: a virtual machine may give free pages back to its host, and getting one again costs more
than copying it. A run that starts at once gets the pages of its predecessor and is twice as fast as one that does not.

Seconds are those of the whole process, imports and all. "x cp" is the median of the ratios to the `cp -r` of the same
repeat, made with --reflink=never because a shared extent is no copy. CPU seconds are user + system of the process and
of the children that it waited for. Peak RSS is the kernel's maximum for one process; for several at once it is the
largest sum of their PSS (a shared page counts once) in samples every 50 ms, where that is more. "Above" is above the
median of `python -c "import torch"` in the same run.

mbridge (convert_mbridge.py says how to make its venv) fills parameters in memory and saves them again: it reads and
writes the model once, our two programs together twice. It is set against them twice: the work alone, as each program
times itself without imports and set-up, and the whole processes.

The exit code is 1 when a program fails or the weights are not the same, byte for byte, after the round trip. A missed
target is only reported.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.bench.convert_figures import (  # noqa: E402
    CP,
    MBRIDGE,
    ROUND_TRIP,
    STARTUP,
    TO_HF,
    TO_MEGATRON,
    WORK,
    Measurement,
    rows,
    show,
    targets,
)
from tools.bench.convert_process import Usage, run_child  # noqa: E402
from tools.bench.convert_record import header, versions_of  # noqa: E402
from tools.bench.random_checkpoint import SIZES, first_difference, make_checkpoint, num_bytes  # noqa: E402

MBRIDGE_PACKAGES = ("mbridge", "torch", "megatron-core", "transformers", "safetensors")
NEEDED_FOLDERS = 3.3  # source, Megatron folder and one output; 10 % for the head that pipeline stages hold twice


@dataclass(frozen=True)
class Program:
    """A command that reads `source` and writes the output folder."""

    direction: str
    name: str
    command: tuple[str, ...]
    source: Path | None = None


@dataclass(frozen=True)
class Tools:
    """The commands under test, up to their options."""

    hf_to_megatron: tuple[str, ...] = (sys.executable, "tools/convert/hf_to_megatron.py")
    megatron_to_hf: tuple[str, ...] = (sys.executable, "tools/convert/megatron_to_hf.py")
    verify: tuple[str, ...] = (sys.executable, "tools/convert/verify.py")


def set_cache(source: Path, cache: str) -> None:
    """Bring the files of a folder into the page cache, or drop those of their pages that are not dirty."""
    for path in filter(Path.is_file, source.rglob("*")):
        with path.open("rb", buffering=0) as file:
            if cache == "cold":
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                buffer = bytearray(8 << 20)
                while file.readinto(buffer):
                    pass


def ours(workers: int, fsync: bool = False) -> str:
    """The name of our tool's row."""
    return f"ours, {workers} worker{'s' * (workers > 1)}{', fsync' * fsync}"


def programs(options: argparse.Namespace, tools: Tools, hf: Path, megatron: Path, out: Path) -> Iterator[Program]:
    """What each repeat runs, in order."""
    variants = [
        (workers, fsync) for workers in options.workers for fsync in ([False, True] if options.fsync else [False])
    ]
    cp = ("cp", "-r", "--reflink=never")
    yield Program("", STARTUP, (sys.executable, "-c", "import torch"))
    for direction, source in ((TO_MEGATRON, hf), (TO_HF, megatron)):
        yield Program(direction, CP, (*cp, str(source), str(out)), source)
        for workers, fsync in variants:
            tail = ("--workers", str(workers), *(("--fsync",) if fsync else ()))
            if direction == TO_MEGATRON:
                command = (*tools.hf_to_megatron, "--hf", str(hf), "--megatron", str(out), *layout(options), *tail)
            else:
                command = (*tools.megatron_to_hf, "--megatron", str(megatron), "--hf", str(out), *tail)
            yield Program(direction, ours(workers, fsync), command, source)
    if options.mbridge_python:
        # Not resolved: a venv's python is a link, and the venv is found by the link's own place.
        python, script = os.path.abspath(options.mbridge_python), "tools/bench/convert_mbridge.py"
        yield Program(ROUND_TRIP, MBRIDGE, (python, "-W", "ignore", script, str(hf), str(out)), hf)


def layout(options: argparse.Namespace) -> tuple[str, ...]:
    return ("--tp", str(options.tp), "--pp", str(options.pp), "--vpp", str(options.vpp))


def measure(
    runs: list[Program], options: argparse.Namespace, out: Path, check: Callable[[Program], None]
) -> list[Measurement]:
    """Every program, repeat by repeat; `check` sees the output of each program's first run."""
    found: list[Measurement] = []
    caches = caches_of(options)
    for cache in caches:
        for repeat in range(options.repeats):
            for program in runs:
                shutil.rmtree(out, ignore_errors=True)
                os.sync()
                if program.source is not None:
                    set_cache(program.source, cache)
                time.sleep(options.settle_s)
                usage = run_child(program.command, options.timeout_s)
                found += parts(program, cache, repeat, usage)
                label = f"{cache} {repeat + 1}/{options.repeats}  {program.direction} {program.name}"
                print(f"convert: {label}: {usage.seconds:.2f} s, {usage.peak_rss_mib:.0f} MiB", flush=True)
                if (cache, repeat) == (caches[0], 0):
                    check(program)
    return found


def parts(program: Program, cache: str, repeat: int, usage: Usage) -> list[Measurement]:
    """A run of a program as rows: one for the process, and one for what it says that its work alone took."""
    run = Measurement(program.direction, program.name, cache, repeat, usage.seconds, usage.cpu_s, usage.peak_rss_mib)

    def part(name, seconds, **changes):
        return replace(run, name=f"{program.name}, {name}", seconds=seconds, cpu_s=None, peak_rss_mib=None, **changes)

    if program.name == MBRIDGE:
        times = mbridge_line(usage.output)
        load = part("load", times["load_s"], direction=TO_MEGATRON)
        save = part("save", times["save_s"], direction=TO_HF)
        return [load, save, replace(part(WORK, times["load_s"] + times["save_s"]), cpu_s=times["cpu_s"]), run]
    own = re.search(r"^wrote .* files, ([\d.]+) s, ", usage.output, re.MULTILINE)
    return [run, part(WORK, float(own[1]))] if own else [run]


def mbridge_line(output: str) -> dict:
    """What convert_mbridge.py printed."""
    return json.loads(next(line for line in reversed(output.splitlines()) if line.startswith('{"load_s"')))


def check_output(program: Program, tools: Tools, hf: Path, out: Path, timeout_s: float) -> None:
    """Hold what a program wrote against the source: with verify.py, or byte for byte where it is a Hugging Face folder.

    Raises:
        RuntimeError: naming the program and the first difference.
    """
    if program.name in (CP, STARTUP):
        return
    if program.direction == TO_MEGATRON:
        run_child((*tools.verify, "--hf", str(hf), "--megatron", str(out)), timeout_s)
        return
    difference = first_difference(hf, out)
    if difference:
        raise RuntimeError(f"{program.direction}, {program.name}: the weights changed: {difference}")


def check_space(folder: Path, needed: float) -> None:
    """Raises ValueError: the file system of a folder has less than `needed` bytes left."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"{folder} has {free / 1e9:.1f} GB left, and {needed / 1e9:.1f} GB are needed for the source, a Megatron "
            "folder and an output. Give another --folder or a smaller --size."
        )


def caches_of(options: argparse.Namespace) -> list[str]:
    return ["warm", "cold"] if options.cache == "both" else [options.cache]


def bench(options: argparse.Namespace, folder: Path, tools: Tools) -> dict:
    """Make the checkpoint, measure everything, print the table; returns the record."""
    info, hf = SIZES[options.size], folder / f"hf-{options.size}"
    size, load = num_bytes(info), os.getloadavg()
    check_space(folder, (NEEDED_FOLDERS - hf.exists()) * size)
    peer = versions_of(options.mbridge_python, MBRIDGE_PACKAGES, options.timeout_s) if options.mbridge_python else None
    print(f"convert: {size / 1e9:.2f} GB of random weights ({options.size})", flush=True)
    make_checkpoint(hf, info)
    with tempfile.TemporaryDirectory(prefix="work_", dir=folder) as work:
        megatron, out = Path(work, "megatron"), Path(work, "out")
        workers = ("--workers", str(options.workers[0]))
        make = (*tools.hf_to_megatron, "--hf", str(hf), "--megatron", str(megatron), *layout(options), *workers)
        run_child(make, options.timeout_s)
        runs = list(programs(options, tools, hf, megatron, out))
        found = measure(runs, options, out, lambda run: check_output(run, tools, hf, out, options.timeout_s))
        megatron_bytes = sum(path.stat().st_size for path in megatron.rglob("*") if path.is_file())
    table_rows, promised = rows(found), targets(found, [ours(workers) for workers in options.workers])
    show(table_rows, promised, Console(width=120))
    return {
        **header(folder, options, caches_of(options)),
        "load_average_before": load,
        "mbridge_versions": peer,
        "checkpoint": {"parameters": size // 2, "hf_bytes": size, "megatron_bytes": megatron_bytes},
        "same_weights_after": [f"{p.direction}, {p.name}" for p in runs if p.name not in (CP, STARTUP)],
        "targets": [asdict(target) for target in promised],
        "table": [asdict(row) for row in table_rows],
        "measurements": [asdict(measurement) for measurement in found],
    }


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="0.5b")
    for axis in ("tp", "pp", "vpp"):
        parser.add_argument(f"--{axis}", type=int, default=1, help="of the Megatron checkpoint")
    parser.add_argument("--workers", type=int, nargs="+", default=[1], help="each is measured")
    parser.add_argument("--fsync", action="store_true", help="measure our tools with --fsync too")
    parser.add_argument("--cache", choices=("warm", "cold", "both"), default="both")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--settle-s", type=float, default=3, help="wait before each run, see the top of the file")
    parser.add_argument("--timeout-s", type=float, default=1200, help="of one process")
    parser.add_argument("--mbridge-python", help="python of a venv with mbridge, see convert_mbridge.py")
    parser.add_argument("--folder", type=Path, help="where checkpoints lie; the source is kept there and used again")
    parser.add_argument("--json", type=Path, help="record to write")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None, tools: Tools | None = None) -> None:
    options = parse(arguments)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        # An exit instead of a sudden end, so that children and folders go too.
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        stack.callback(signal.signal, signal.SIGTERM, before)
        if options.folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="convert_")))
        else:
            folder = options.folder.resolve()
            folder.mkdir(parents=True, exist_ok=True)
        try:
            record = bench(options, folder, tools or Tools())
        except (RuntimeError, ValueError) as error:
            sys.exit(f"convert: {error}")
        except KeyboardInterrupt:
            sys.exit(130)
    if options.json:
        options.json.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        print(f"written: {options.json}")


if __name__ == "__main__":
    main()

"""What a record of the conversion benchmark says of when, where and with what it was made."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
from pathlib import Path

import psutil

from tools.bench.convert_process import run_child

HOW_CACHE = {
    "warm": "every source file read through once before each run; what does not fit into memory stays cold",
    "cold": "sync, then posix_fadvise(POSIX_FADV_DONTNEED) on every source file before each run; programs and "
    "libraries stay cached, and so does what the disk or the host of a virtual machine holds",
}
PACKAGES = ("torch", "megatron-core", "transformers", "safetensors", "numpy")


def machine(folder: Path) -> dict:
    """Processor, cores, memory, kernel, and the file system that a folder lies on."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    mounts = [p for p in psutil.disk_partitions(all=True) if folder.resolve().is_relative_to(p.mountpoint)]
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "filesystem": max(mounts, key=lambda mount: len(mount.mountpoint)).fstype if mounts else None,
    }


def header(folder: Path, options: argparse.Namespace, caches: list[str]) -> dict:
    """When, on what, with what, and how; paths of this machine are left out."""
    from tools.bench.gpu_check import commit  # here, because it loads transformers for seconds

    now = datetime.datetime.now(datetime.UTC)
    settings = {
        key: getattr(options, key) for key in ("size", "tp", "pp", "vpp", "workers", "repeats", "fsync", "settle_s")
    }
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    return {
        "date": now.isoformat(timespec="seconds"),
        **commit(),
        "machine": machine(folder),
        "versions": {"python": platform.python_version(), **versions},
        "options": settings,
        "cache": {cache: HOW_CACHE[cache] for cache in caches},
    }


def versions_of(python: str, packages: tuple[str, ...], timeout_s: float) -> dict[str, str]:
    """Of packages that another interpreter has."""
    program = (
        "import importlib.metadata, json, sys; print(json.dumps(list(map(importlib.metadata.version, sys.argv[1:]))))"
    )
    found = run_child((os.path.abspath(python), "-c", program, *packages), timeout_s).output
    return dict(zip(packages, json.loads(found), strict=True))

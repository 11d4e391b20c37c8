"""Does this machine's GPU compute what the CPU computes? One JSON of named checks; exit code 1 when one fails.

    make gpu-check
    python tools/bench/gpu_check.py --out /tmp/check.json --limit-s 480

Each variant (see gpu_variants.py) runs the same programs in a process of its own, one after the other. Without CUDA two
cuts of the same batch are compared on the CPU, and everything else is listed as skipped with its reason. What has to be
installed is in docs/measurements/README.md.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import megatron_eureka  # noqa: E402, F401  (before transformers: on CPU it makes CUDA-linked wheels importable)

# isort: split
import torch  # noqa: E402

from examples.digits.model import make_model  # noqa: E402
from tools.bench.gpu_comparisons import FAILED, SKIPPED, Check, Results, compare, skipped  # noqa: E402
from tools.bench.gpu_variants import COMPARED, REFERENCE, TIMED, YARDSTICK, Variant, why_not  # noqa: E402

BENCH = Path(__file__).resolve().parent
PACKAGES = ("torch", "megatron-core", "transformers", "transformer-engine", "flash-attn", "triton", "numpy", "vllm")


class Clock:
    """Seconds that are left of a limit."""

    def __init__(self, limit_s: float):
        self.start, self.limit_s = time.monotonic(), limit_s

    def passed(self) -> float:
        return time.monotonic() - self.start

    def left(self) -> float:
        return max(1.0, self.limit_s - self.passed())


def environment(variant: Variant) -> dict[str, str]:
    """Of a job of one rank; a CPU variant sees no GPU."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if variant.device == "cpu" else {}
    return {**os.environ, **job, **hidden, "TOKENIZERS_PARALLELISM": "false"}


def run(program: str, variant: Variant, argument: str, out: Path, clock: Clock) -> str | None:
    """Run a program of this folder; returns why it failed, or None when it has written `out`."""
    command = [sys.executable, str(BENCH / program), json.dumps(variant.to_dict()), argument, str(out)]
    print(f"gpu_check: {clock.passed():4.0f} s  {program.removesuffix('.py')} [{variant.name}]", flush=True)
    try:
        done = subprocess.run(
            command, env=environment(variant), capture_output=True, text=True, timeout=clock.left(), cwd=ROOT
        )
    except subprocess.TimeoutExpired:
        return f"the time limit of {clock.limit_s:.0f} s for all checks ran out"
    if done.returncode:
        return f"exit code {done.returncode}: " + "\n".join(done.stderr.strip().splitlines()[-15:])
    return None


def check_variants(folder: Path, has_cuda: bool, clock: Clock) -> list[Check]:
    """Run every variant that can run here and compare it with fp32 on the CPU."""
    make_model(folder / "model", num_layers=4, hidden_size=256, num_heads=8, ffn_size=512, std=0.06, seed=1)
    checks: list[Check] = []

    def results_of(variant: Variant) -> Results | None:
        out = folder / f"{variant.name}.pt"
        failure = run("gpu_programs.py", variant, str(folder / "model"), out, clock)
        if failure is not None:
            checks.append(Check(f"programs run [{variant.name}]", FAILED, failure))
            return None
        return torch.load(out)

    reasons = {variant: why_not(variant, has_cuda) for variant in COMPARED}
    reference = results_of(REFERENCE)
    in_bf16 = any(variant.dtype == "bf16" and why is None for variant, why in reasons.items())
    yardstick = results_of(YARDSTICK) if in_bf16 else None
    for variant, why in reasons.items():
        if why is None and (reference is None or (variant.dtype == "bf16" and yardstick is None)):
            why = "what it is compared with did not run"
        if why is not None:
            checks += skipped(variant, why)
            continue
        got = results_of(variant)
        if got is not None:
            checks += compare(variant, got, reference, yardstick)
    return checks


def time_variants(folder: Path, has_cuda: bool, clock: Clock) -> tuple[list[Check], list[dict]]:
    """Timings of every variant that can run here; those that cannot are skipped checks."""
    checks, timings = [], []
    for variant in TIMED:
        name, why = f"timings [{variant.name}]", why_not(variant, has_cuda)
        if why is not None:
            checks.append(Check(name, SKIPPED, why))
            continue
        out = folder / "timings.json"
        failure = run("gpu_timings.py", variant, "1b", out, clock)
        if failure is not None:
            checks.append(Check(name, FAILED, failure))
            continue
        timings += [{"variant": variant.name, **record} for record in json.loads(out.read_text("utf-8"))]
    return checks, timings


def header(has_cuda: bool) -> dict:
    """When, on what, with what."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    device = {"kind": "cpu", "name": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    if has_cuda:
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        device |= {"kind": "cuda", "name": torch.cuda.get_device_name(0), "memory_gib": round(memory, 1)}
        versions["cuda"] = torch.version.cuda
    now = datetime.datetime.now(datetime.UTC)
    return {"date": now.isoformat(timespec="seconds"), **commit(), "device": device, "versions": versions}


def commit() -> dict:
    """The checkout's commit, and whether files differ from it; None where there is no git."""

    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)

    try:
        head, status = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except FileNotFoundError:
        return {"commit": None, "modified": None}
    if head.returncode:
        return {"commit": None, "modified": None}
    return {"commit": head.stdout.strip(), "modified": bool(status.stdout.strip())}


def default_out(report: dict) -> Path:
    """docs/measurements/gpu_check-DEVICE-DATE.json"""
    device = report["device"]["name"] if report["device"]["kind"] == "cuda" else "cpu"
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return ROOT / "docs" / "measurements" / f"gpu_check-{slug}-{report['date'][:10]}.json"


def summary(report: dict) -> str:
    """The counts, every failure with its numbers, and what was skipped, by variant."""
    checks = report["checks"]
    lines = []
    for check in checks:
        if check["status"] == FAILED:
            lines.append(
                f"FAILED  {check['name']}: {check['value']} (tolerance {check['tolerance']}; {check['reason']})"
            )
    for why in dict.fromkeys(check["reason"] for check in checks if check["status"] == SKIPPED):
        names = [check["name"] for check in checks if check["status"] == SKIPPED and check["reason"] == why]
        lines.append(f"skipped {len(names)} checks: {why}")
    for record in report["timings"]:
        speed = f", {record['tokens_per_s']:.0f} tokens/s, {record['tflops']:.0f} TFLOP/s" if "tflops" in record else ""
        lines.append(f"timing  [{record['variant']}] {record['name']}: {1e3 * record['median_s']:.1f} ms{speed}")
    counts = ", ".join(f"{number} {status}" for status, number in report["counts"].items())
    return "\n".join([*lines, f"{counts} in {report['seconds']:.0f} s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON to write; default: docs/measurements/gpu_check-DEVICE-DATE.json")
    parser.add_argument("--limit-s", type=float, default=480, help="seconds for everything")
    parser.add_argument("--no-timings", action="store_true", help="only compare numbers")
    options = parser.parse_args()
    clock, has_cuda = Clock(options.limit_s), torch.cuda.is_available()
    report = header(has_cuda)
    with tempfile.TemporaryDirectory(prefix="gpu_check_") as folder:
        checks = check_variants(Path(folder), has_cuda, clock)
        timings: list[dict] = []
        if not options.no_timings:
            more, timings = time_variants(Path(folder), has_cuda, clock)
            checks += more
    counts = {status: sum(check.status == status for check in checks) for status in ("passed", FAILED, SKIPPED)}
    report |= {"seconds": round(clock.passed(), 1), "counts": counts, "checks": [check.to_dict() for check in checks]}
    report["timings"] = timings
    out = options.out or default_out(report)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print(f"{summary(report)}\nwritten: {out}")
    sys.exit(1 if counts[FAILED] else 0)


if __name__ == "__main__":
    main()

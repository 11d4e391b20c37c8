"""What an evaluation does, from the options: which benchmarks, how answers are drawn, and the prompts' turns."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megatron_eureka.config.schema import Config, Evaluation, Rollout
from megatron_eureka.datasets.benchmarks import BENCHMARKS, Benchmark
from megatron_eureka.datasets.benchmarks.item import BenchmarkItem
from megatron_eureka.engines.protocol import SamplingOptions
from megatron_eureka.evaluate.responses import ResponseFile

HASHED_BYTES = 1 << 20  # of each weight file's beginning and end; config.json and the like whole


@dataclass(frozen=True)
class Source:
    """One benchmark and where it lies."""

    name: str
    path: Path


def sources(options: Evaluation) -> tuple[Source, ...]:
    """The benchmarks of `evaluation.benchmarks`.

    Raises:
        ValueError: an entry is not of the form NAME=PATH, its name is unknown, or it stands there twice.
    """
    found: dict[str, Source] = {}
    for entry in options.benchmarks:
        name, equals, path = entry.partition("=")
        if not equals or not path or name not in BENCHMARKS:
            raise ValueError(
                f"evaluation.benchmarks: {entry!r} is not NAME=PATH with a NAME of {', '.join(BENCHMARKS)}."
            )
        if name in found:
            raise ValueError(f"evaluation.benchmarks has {name} twice. Evaluate the other one with another --out.")
        found[name] = Source(name, Path(path))
    return tuple(found.values())


def sampling(options: Evaluation, rollout: Rollout) -> SamplingOptions:
    """How answers are drawn: greedily, unless a temperature is given.

    Raises:
        ValueError: several samples without a temperature.
    """
    if options.samples > 1 and not options.temperature:
        raise ValueError(
            f"evaluation.samples = {options.samples} needs a temperature above 0, greedy samples are all the same: "
            "give evaluation.temperature, or one sample."
        )
    if not options.temperature:
        return SamplingOptions.from_rollout(rollout, greedy=True)
    return replace(SamplingOptions.from_rollout(rollout), temperature=options.temperature)


def pass_ks(options: Evaluation) -> tuple[int, ...]:
    """The k of pass@k, ascending.

    Raises:
        ValueError: one of them is not within 1 and the number of samples.
    """
    wanted = sorted({*(options.pass_k or (1, options.samples))})
    if wanted[0] < 1 or wanted[-1] > options.samples:
        raise ValueError(
            f"evaluation.pass_k = {list(wanted)} does not fit evaluation.samples = {options.samples}: k is at least 1 "
            "and at most the number of samples."
        )
    return tuple(wanted)


def turns(item: BenchmarkItem, config: Config) -> tuple[dict, ...]:
    """The chat turns that a model gets; the same for every model.

    Questions in the training format stay as they are, with `data.system_prompt` as in training.
    """
    options = config.evaluation
    if item.as_trained:
        system = config.data.system_prompt
    else:
        system = options.system_prompt if options.prompt == "think" else ""
    messages = item.messages
    if options.prompt == "official" and item.query:
        images = [part for part in messages[-1]["content"] if part["type"] == "image"]
        messages = ({"role": "user", "content": [*images, {"type": "text", "text": item.query}]},)
    return ({"role": "system", "content": system}, *messages) if system else messages


def settings(config: Config, benchmark: Benchmark, model: Path) -> dict[str, Any]:
    """What responses depend on; responses under other settings are never mixed with these."""
    drawn = sampling(config.evaluation, config.rollout)
    return {
        "model": str(model.resolve()),
        "model files": folder_digest(model),
        "benchmark": benchmark.name,
        "benchmark files": hashlib.sha256(b"".join(file_digest(file) for file in benchmark.files)).hexdigest()[:16],
        "evaluation.samples": config.evaluation.samples,
        "evaluation.temperature": drawn.temperature,
        "evaluation.prompt": config.evaluation.prompt,
        "evaluation.system_prompt": config.evaluation.system_prompt,
        "data.system_prompt": config.data.system_prompt,
        "data.min_pixels": config.data.min_pixels,
        "data.max_pixels": config.data.max_pixels,
        "data.max_prompt_tokens": config.data.max_prompt_tokens,
        "rollout.max_response_tokens": config.rollout.max_response_tokens,
        "rollout.top_p": drawn.top_p,
        "rollout.top_k": drawn.top_k,
        "rollout.stop": list(drawn.stop),
        "precision.dtype": config.precision.dtype,
        "train.seed": config.train.seed,
    }


def response_file(config: Config, model: Path, folder: Path, benchmark: Benchmark) -> ResponseFile:
    """Where a model's responses to a benchmark go."""
    return ResponseFile(folder / f"{benchmark.name}.responses.jsonl", settings(config, benchmark, model))


def file_digest(path: Path) -> bytes:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def folder_digest(folder: Path) -> str:
    """A fingerprint of a model folder: names, sizes, and both ends of every file, for weights are too many to read."""
    digest = hashlib.sha256()
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder)}|{size}|".encode())
        with path.open("rb") as file:
            digest.update(file.read(HASHED_BYTES))
            file.seek(max(0, size - HASHED_BYTES))
            digest.update(file.read(HASHED_BYTES))
    return digest.hexdigest()[:16]

"""Answers to benchmarks from engines, chunk by chunk; what a killed evaluation wrote is not asked again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from megatron_eureka.checkpoints import megatron_to_hf
from megatron_eureka.config.schema import Config
from megatron_eureka.data.images import ImageStore
from megatron_eureka.data.processor import load_processor
from megatron_eureka.data.prompts import load_prompts
from megatron_eureka.engines.options import EngineOptions
from megatron_eureka.engines.protocol import Engine, Refusal, SamplingOptions, sampling_seed
from megatron_eureka.evaluate.benchmarks import Benchmark, load_benchmark
from megatron_eureka.evaluate.plan import Source, sampling, settings, sources, turns
from megatron_eureka.evaluate.responses import Response, ResponseFile
from megatron_eureka.families.source import ModelSource
from megatron_eureka.files import write_atomically
from megatron_eureka.log import logger
from megatron_eureka.parallel import groups
from megatron_eureka.parallel.layout import Layout
from megatron_eureka.parallel.main_rank import run_on_main
from megatron_eureka.types import Group, Prompt

ALONE_ON_GPU = 0.85  # share of its memory: there is no trainer beside the engine (not yet run on a GPU)
UNREADABLE = "no prompt could be made of it: too long for data.max_prompt_tokens, broken picture, or chat tokens in it"


@dataclass(frozen=True)
class Question:
    """An item as the engines get it."""

    id: str
    place: int  # in the benchmark; names its seeds, so that a resumed run draws the same
    prompt: Prompt | None  # None: none could be made


def generate(config: Config, model: Path, folder: Path) -> None:
    """Answer everything in `evaluation.benchmarks` that `folder` has no answer to; called on every rank of the job.

    Args:
        config: the options; `model.path` is not used.
        model: a Hugging Face folder, or a Megatron checkpoint, which is converted for the time being.
        folder: of this model's responses; NAME.responses.jsonl is written by rank 0.

    Raises:
        ValueError: bad input, with its remedy.
    """
    world = groups.world_size()
    groups.start(Layout.fill(world, tp=1, pp=1, cp=1, vpp=1), config.train.seed, config.launch.timeout_s)
    converted = folder / ".hf"
    weights = run_on_main(lambda: _as_hf(model, converted), for_all=True)
    loaded = ModelSource.open(weights)
    processor = load_processor(loaded)
    store = ImageStore.from_options(config.data, processor.image_processor, folder / ".images")
    works = [_open_work(config, source, model, folder, processor, store) for source in sources(config.evaluation)]
    questions = [question for work in works for question in work.questions]
    if questions:
        engine = _start_engine(config, loaded, store, [question.prompt for question in questions if question.prompt])
        for work in works:
            _answer(config, engine, work)
    for work in works:
        if work.file is not None:
            work.file.close()
    dist.barrier()
    if dist.get_rank() == 0:
        shutil.rmtree(converted, ignore_errors=True)
        shutil.rmtree(folder / ".images", ignore_errors=True)


def ask(config: Config, engine: Engine, questions: Sequence[Question], options: SamplingOptions) -> list[Response]:
    """Responses to all questions, their texts on rank 0 alone; a collective over the whole job."""
    asked = [question for question in questions if question.prompt is not None]
    seeds = [
        tuple(
            sampling_seed(config.train.seed, 0, question.place, sample) for sample in range(config.evaluation.samples)
        )
        for question in asked
    ]
    prompts = [question.prompt for question in asked]
    results = engine.sample(prompts, seeds, options, refuse_broken=True) if asked else []
    found = {question.id: _response(question.id, result) for question, result in zip(asked, results, strict=True)}
    return [found.get(question.id) or Response(question.id, (), (), UNREADABLE) for question in questions]


def write_turns(benchmark: Benchmark, config: Config, file: Path) -> None:
    """Write the items' turns as JSONL in the training format; an item's id is its place."""
    lines = [
        {"id": str(place), "message": turns(item, config), "answer": ", ".join(item.gold)}
        for place, item in enumerate(benchmark.items)
    ]
    write_atomically(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), errors="replace")


def read_questions(
    file: Path,
    ids: Sequence[str],
    config: Config,
    processor: Any,
    store: ImageStore,
    skip: frozenset[str] = frozenset(),
) -> list[Question]:
    """The questions that `write_turns` wrote, without those in `skip`; called on every rank.

    Args:
        ids: of all items, in their order.
    """
    changes = {"on_error": "skip", "overlong": "drop", "system_prompt": "", "image_root": ""}
    prompts = load_prompts([file], config.data.model_copy(update=changes), processor, store).prompts
    by_place = {int(prompt.id): prompt for prompt in prompts}
    return [Question(name, place, by_place.get(place)) for place, name in enumerate(ids) if name not in skip]


def response_file(config: Config, benchmark: Benchmark, model: Path, folder: Path) -> ResponseFile:
    """Where a model's responses to a benchmark go."""
    return ResponseFile(folder / f"{benchmark.name}.responses.jsonl", settings(config, benchmark, model))


@dataclass(frozen=True)
class _Work:
    """The questions of a benchmark that still have no answer."""

    name: str
    questions: list[Question]
    file: ResponseFile | None  # open, on rank 0


def _open_work(config: Config, source: Source, model: Path, folder: Path, processor: Any, store: ImageStore) -> _Work:
    turns_file = folder.parent / "prompts" / f"{source.name}.jsonl"
    opened: list[ResponseFile] = []

    def open_file() -> tuple[list[str], list[str]]:
        benchmark = load_benchmark(source.name, source.path, folder.parent / "images", config.evaluation.max_prompts)
        write_turns(benchmark, config, turns_file)
        opened.append(response_file(config, benchmark, model, folder))
        return [item.id for item in benchmark.items], list(opened[0].open())

    ids, answered = run_on_main(open_file, for_all=True)
    if set(ids) <= set(answered):
        return _Work(source.name, [], opened[0] if opened else None)
    questions = read_questions(turns_file, ids, config, processor, store, frozenset(answered))
    return _Work(source.name, questions, opened[0] if opened else None)


def _answer(config: Config, engine: Engine, work: _Work) -> None:
    """Ask chunk by chunk; rank 0 writes each chunk before the next one is asked."""
    options = sampling(config)
    for done, chunk in _chunks(work.questions, config.evaluation.chunk_prompts):
        responses = ask(config, engine, chunk, options)
        if work.file is not None:
            work.file.append(responses)
            logger.info("%s: %d of %d items answered", work.name, done, len(work.questions))


def _chunks(questions: Sequence[Question], size: int) -> Iterator[tuple[int, Sequence[Question]]]:
    """(items done after it, chunk)."""
    for start in range(0, len(questions), size):
        chunk = questions[start : start + size]
        yield start + len(chunk), chunk


def _response(name: str, result: Group | Refusal) -> Response:
    if isinstance(result, Refusal):
        logger.warning("item %s was refused: %s", name, result.reason)
        return Response(name, (), (), result.reason)
    texts = tuple(sample.text for sample in result.samples)
    return Response(name, texts, tuple(sample.finish_reason for sample in result.samples))


def _start_engine(config: Config, source: ModelSource, store: ImageStore, prompts: Sequence[Prompt]) -> Engine:
    # vLLM takes seconds to import and sets torch's state: only those who generate load it.
    from megatron_eureka.engines.colocated import ColocatedEngine

    max_images = max([1, *(len(prompt.images) for prompt in prompts)])
    share = max(config.rollout.gpu_memory_utilization, ALONE_ON_GPU)
    options = EngineOptions.from_config(config, source, max_images=max_images, gpu_memory_utilization=share)
    return ColocatedEngine(options, store)


def _as_hf(model: Path, converted: Path) -> Path:
    if ModelSource.open(model).has_hf_weights:
        return model
    logger.info("converting %s for the engines", model)
    megatron_to_hf(model, converted, overwrite=True)
    return converted

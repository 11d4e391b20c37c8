"""Answers to benchmarks from engines, chunk by chunk; what a killed evaluation wrote is not asked again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist

from megatron_eureka.checkpoints import megatron_to_hf
from megatron_eureka.config.schema import Config
from megatron_eureka.data.images import ImageStore
from megatron_eureka.data.processor import load_processor
from megatron_eureka.data.prompts import make_prompts
from megatron_eureka.datasets.benchmarks import Benchmark, load_benchmark
from megatron_eureka.engines.options import EngineOptions
from megatron_eureka.engines.protocol import Engine, Rejection, SamplingOptions, sampling_seed
from megatron_eureka.evaluate.plan import Source, response_file, sampling, sources, turns
from megatron_eureka.evaluate.responses import Response, ResponseFile
from megatron_eureka.families.source import ModelSource
from megatron_eureka.log import logger
from megatron_eureka.parallel import groups
from megatron_eureka.parallel.layout import Layout
from megatron_eureka.parallel.main_rank import run_on_main
from megatron_eureka.types import Group, Prompt

ALONE_ON_GPU = 0.85  # share of its memory: there is no trainer beside the engine (not yet run on a GPU)
UNREADABLE = "no prompt could be made of it: too long for data.max_prompt_tokens, broken image, or chat tokens in it"


@dataclass(frozen=True)
class Question:
    """An item as the engines get it."""

    id: str
    place: int  # in the benchmark; names its seeds, so that a resumed run draws the same
    prompt: Prompt | None  # None: none could be made


@dataclass(frozen=True)
class OpenBenchmark:
    """The questions of a benchmark that are to be asked; their images are in a rank's store."""

    name: str
    questions: tuple[Question, ...]
    benchmark: Benchmark | None  # on rank 0, which scores
    file: ResponseFile | None = None  # on rank 0, where responses are kept

    @property
    def max_images(self) -> int:
        """Images of the question that has most; engines are built for so many."""
        return max((len(question.prompt.images) for question in self.questions if question.prompt), default=0)


def open_benchmark(
    config: Config,
    source: Source,
    processor: Any,
    store: ImageStore,
    images: Path,
    keep: Callable[[Benchmark], ResponseFile] | None = None,
) -> OpenBenchmark:
    """Read a benchmark on rank 0, which hands the turns of all questions on; a collective over the whole job.

    Args:
        images: folder for images that stand in tables; all ranks see it.
        keep: gives the file of the responses that there are, whose questions are not asked again.

    Raises:
        ValueError: the benchmark cannot be read, or no prompt can be made of any of its questions.
    """
    benchmark: Benchmark | None = None
    file: ResponseFile | None = None

    def read() -> tuple[int, list[tuple[int, str, str]]]:
        """Number of items, and (place, id, turns) of what is to be asked: JSON without halves of surrogate pairs."""
        nonlocal benchmark, file
        benchmark = load_benchmark(source.name, source.path, images, config.evaluation.max_prompts)
        file = keep(benchmark) if keep else None
        answered = file.open() if file else {}
        return len(benchmark.items), [
            (place, item.id, json.dumps(turns(item, config), ensure_ascii=False).encode("utf-8", "replace").decode())
            for place, item in enumerate(benchmark.items)
            if item.id not in answered
        ]

    num_items, asked = run_on_main(read, for_all=True)
    options = config.data.model_copy(update={"on_error": "skip", "overlong": "drop", "system_prompt": ""})
    rows = ((str(place), Path(), {"message": message, "answer": ""}) for place, _, message in asked)
    prompts = {int(prompt.place): prompt for prompt in make_prompts(rows, options, processor, store).prompts}
    if len(asked) == num_items and not prompts:
        raise ValueError(f"No prompt is left of the {num_items} questions of {source.path}: {UNREADABLE}.")
    questions = tuple(Question(name, place, prompts.get(place)) for place, name, _ in asked)
    return OpenBenchmark(source.name, questions, benchmark, file)


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
    images, keep = folder.parent / "images", partial(response_file, config, model, folder)
    works = [open_benchmark(config, source, processor, store, images, keep) for source in sources(config.evaluation)]
    if any(work.questions for work in works):
        engine = _start_engine(config, loaded, store, max(1, *(work.max_images for work in works)))
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
    results = engine.sample(prompts, seeds, options, reject_broken=True) if asked else []
    found = {question.id: _response(question.id, result) for question, result in zip(asked, results, strict=True)}
    return [found.get(question.id) or Response(question.id, (), (), UNREADABLE) for question in questions]


def _answer(config: Config, engine: Engine, work: OpenBenchmark) -> None:
    """Ask chunk by chunk; rank 0 writes each chunk before the next one is asked."""
    size, total = config.evaluation.chunk_prompts, len(work.questions)
    for start in range(0, total, size):
        chunk = work.questions[start : start + size]
        responses = ask(config, engine, chunk, sampling(config.evaluation, config.rollout))
        if work.file is not None:
            work.file.append(responses)
            logger.info("%s: %d of %d items answered", work.name, start + len(chunk), total)


def _response(name: str, result: Group | Rejection) -> Response:
    if isinstance(result, Rejection):
        logger.warning("item %s was refused: %s", name, result.reason)
        return Response(name, (), (), result.reason)
    texts = tuple(sample.text for sample in result.samples)
    return Response(name, texts, tuple(sample.finish_reason for sample in result.samples))


def _start_engine(config: Config, source: ModelSource, store: ImageStore, max_images: int) -> Engine:
    # vLLM takes seconds to import and sets torch's state: only those who generate load it.
    from megatron_eureka.engines.colocated import ColocatedEngine

    share = max(config.rollout.gpu_memory_utilization, ALONE_ON_GPU)
    options = EngineOptions.from_config(config, source, max_images=max_images, gpu_memory_utilization=share)
    return ColocatedEngine(options, store)


def _as_hf(model: Path, converted: Path) -> Path:
    if ModelSource.open(model).has_hf_weights:
        return model
    logger.info("converting %s for the engines", model)
    megatron_to_hf(model, converted, overwrite=True)
    return converted

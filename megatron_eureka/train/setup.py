"""How a run starts: the job is joined, the data are read, the folder is taken, the policy built, recording begun."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist
from megatron.core.process_groups_config import ProcessGroupCollection

from megatron_eureka.config.load import dump
from megatron_eureka.config.schema import Config
from megatron_eureka.data.images import ImageStore
from megatron_eureka.data.processor import load_processor
from megatron_eureka.data.prompts import PromptSet, load_prompts
from megatron_eureka.families.source import ModelSource
from megatron_eureka.log import logger
from megatron_eureka.parallel import groups
from megatron_eureka.parallel.layout import Layout
from megatron_eureka.parallel.main_rank import run_on_main
from megatron_eureka.runs.folder import RunFolder
from megatron_eureka.runs.metrics_writer import MetricsWriter
from megatron_eureka.train.policy import build_policy
from megatron_eureka.train.run import Run
from megatron_eureka.types import Prompt

LabelCheck = Callable[[str], str | None]  # gives the reason why a label cannot be verified, or None


@dataclass
class Data:
    """The processor, the images and the prompts of a run."""

    processor: Any
    store: ImageStore
    train: PromptSet
    heldout: tuple[Prompt, ...] = ()


def start_job(config: Config, meanwhile: Callable[[], object] = lambda: None) -> tuple[Layout, ProcessGroupCollection]:
    """Join the job and lay its ranks out as `parallel` says.

    Args:
        meanwhile: done in a thread while ranks wait for each other: imports, say.
    """
    if config.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True, warn_only=True)
    parallel = config.parallel
    layout = Layout.fill(groups.world_size(), tp=parallel.tp, pp=parallel.pp, cp=parallel.cp, vpp=parallel.vpp)
    logger.info("joining %s", layout.grid().splitlines()[0])
    with ThreadPoolExecutor(1) as thread:
        beside = thread.submit(meanwhile)
        joined = groups.start(layout, config.train.seed, config.launch.timeout_s)
        beside.result()
    return layout, joined


def load_data(
    config: Config,
    source: ModelSource,
    check_label: LabelCheck | None,
    with_responses: bool = False,
    spill_dir: Path | None = None,
) -> Data:
    """Read the prompts, the same on every rank; rank 0's verdicts on labels hold for all.

    Args:
        check_label: called on rank 0 alone; None where labels do not matter.
        with_responses: the training data are demonstrations (SFT).
        spill_dir: where resized images go that memory does not hold; shared by the ranks that see it.
    """
    logger.info("reading prompts")
    processor = load_processor(source)
    store = ImageStore.from_options(config.data, processor.image_processor, spill_dir)
    reasons: dict[str, str | None] = {}

    def load() -> Data:
        def ask(label: str) -> str | None:
            if label not in reasons and check_label is not None and dist.get_rank() == 0:
                reasons[label] = check_label(label)
            return reasons.get(label)

        options, labels = config.data, None if with_responses else ask
        train = load_prompts(options.train, options, processor, store, labels, with_responses)
        heldout: tuple[Prompt, ...] = ()
        if config.evaluation.enabled and config.evaluation.data and not with_responses:
            heldout = load_prompts(config.evaluation.data, options, processor, store, ask).prompts
        return Data(processor, store, train, heldout[: config.evaluation.max_prompts or None])

    data = run_on_main(load)
    box = [reasons]
    dist.broadcast_object_list(box, src=0)
    reasons.update(box[0])
    return data if data is not None else load()


def open_folder(config: Config, name: str) -> RunFolder:
    """The run folder, opened by rank 0; what it refuses, every rank refuses.

    Args:
        name: of the folder, where `logging.name` is empty.
    """
    options = config.logging
    folder = RunFolder(options.root, options.name or name)
    run_on_main(lambda: folder.open(dump(config), options.resume, options.overwrite))
    return folder


def open_run(
    config: Config,
    source: ModelSource,
    folder: RunFolder,
    data: Data,
    layout: Layout,
    process_groups: ProcessGroupCollection,
    banned: Sequence[int] = (),
    temperature: float = 1.0,
) -> Run:
    """Build the policy; a collective over the whole job.

    Args:
        banned, temperature: token ids that sampling never yields, and its temperature; none where nothing is sampled.
    """
    policy = build_policy(config, source, layout, process_groups, data.store.pixels, banned, temperature)
    return Run(config=config, policy=policy, store=data.store, folder=folder)


def start_recording(run: Run) -> None:
    """Open the files of metrics, after it is known at which step the run begins."""
    logger.info("ready after %.0f s", time.time() - psutil.Process().create_time())
    if run.is_reporting_rank:
        options, steps = run.config.logging, run.config.train.steps
        run.writer = MetricsWriter(run.folder.path, steps, run.step, options.tensorboard, options.wandb_project)

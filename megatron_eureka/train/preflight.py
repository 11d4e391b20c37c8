"""What would stop a run after minutes is refused in its first seconds: `preflight`, for the dry run and for every run.

Ordered by cost: options and files, then the headers of the weights (torch), and for a dry run the processor
(transformers). Neither Megatron-Core nor vLLM is imported, and nothing is written.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from megatron_eureka.config.checks import Task, check
from megatron_eureka.config.load import dump
from megatron_eureka.config.schema import Config
from megatron_eureka.evaluate.plan import pass_ks, sampling, sources
from megatron_eureka.families import PUBLISHED
from megatron_eureka.families.companions import companion_problems
from megatron_eureka.families.source import ModelSource, find_source
from megatron_eureka.parallel.layout import Layout
from megatron_eureka.rewards.service import check_address
from megatron_eureka.rewards.user import find_function, try_file
from megatron_eureka.runs.folder import RunFolder
from megatron_eureka.runs.saved_layout import saved_layout


@dataclass(frozen=True)
class Preflight:
    """What was found of a run that may start."""

    source: ModelSource | None  # None: a plan for a model that is not there yet
    absent: tuple[str, ...] = ()  # of a plan: why a run would be refused here and today, one sentence each


def preflight(config: Config, task: Task, num_ranks: int, name: str, *, for_plan: bool = False) -> Preflight:
    """Refuse a run that cannot work.

    Args:
        config: the resolved options.
        task: "sft" leaves out what only rollouts and rewards need.
        num_ranks: trainer ranks of the job.
        name: of the run folder where `logging.name` is empty.
        for_plan: a dry run. It loads what a run would load. As long as `model.path` is no folder, the plan is for
            another machine or a later day, and what this machine lacks is told and not refused.

    Raises:
        ValueError: all problems that one look can find, one a line, each with a way out.
    """
    source = _source(config.model.path, for_plan)
    ahead = for_plan and not Path(config.model.path).is_dir()
    missing = tuple([*_files(config, task), *_packages(config), *_run_folder(config, num_ranks, name)])
    problems = [*_named_parts(config, task)]
    if source is not None and not ahead:
        problems += companion_problems(source.hf, source.family)
    check(config, source and source.info, num_ranks, task, [*problems, *(() if ahead else missing)])
    if ahead:
        return Preflight(source, missing)
    _check_reward_files(config, task)
    _check_weights(config, source)
    if for_plan:
        _check_processor(source)
    return Preflight(source)


def _source(path: str, for_plan: bool) -> ModelSource | None:
    """The model in a folder; for a plan a published model's name will do, and of a later folder nothing."""
    if not path or (for_plan and not Path(path).exists() and path not in PUBLISHED):
        return None  # of an empty path `check` speaks
    try:
        return find_source(path) if for_plan else ModelSource.open(path)
    except ValueError as error:
        raise ValueError(f"model.path: {error}") from error


def _files(config: Config, task: Task) -> Iterator[str]:
    """What the options name and is not on this machine."""
    evaluation, listed = config.evaluation, {"data.train": config.data.train}
    if task == "grpo" and evaluation.enabled:
        listed["evaluation.data"] = evaluation.data
    for option, files in listed.items():
        for file in files:
            if not Path(file).is_file():
                what = "is a folder, name its files" if Path(file).is_dir() else "no such file"
                yield f"{option}: {file}: {what}. Paths start from the working directory."
            elif not os.access(file, os.R_OK):
                yield f"{option}: {file} may not be read. Change its permissions."
    if config.data.image_root and not Path(config.data.image_root).is_dir():
        yield f"data.image_root: {config.data.image_root}: no such folder."
    if task == "grpo" and evaluation.enabled and not _problem_with(sources, evaluation):
        for source in sources(evaluation):
            if not source.path.exists():
                yield f"evaluation.benchmarks: {source.path} ({source.name}) is not there."


def _packages(config: Config) -> Iterator[str]:
    """What the options ask for and is not installed; whether Transformer Engine runs, its importer says."""
    if config.model.spec == "te" and importlib.util.find_spec("transformer_engine") is None:
        yield (
            "model.spec is 'te', but transformer-engine is not installed. Install the `gpu` extra on a GPU machine, or "
            "use 'auto'."
        )
    if config.logging.wandb_project and importlib.util.find_spec("wandb") is None:
        yield (
            f"logging.wandb_project = {config.logging.wandb_project!r}, but wandb is not installed. Install the "
            "`wandb` extra, or leave the option empty."
        )


def _named_parts(config: Config, task: Task) -> Iterator[str]:
    """What is wrong with the names of benchmarks, reward functions and services. Addresses are looked at, not asked."""
    if task != "grpo":
        return
    options, reward = config.evaluation, config.reward
    validations = [(find_function, reference) for reference in reward.functions]
    validations += [(check_address, url) for url in reward.services]
    if options.enabled:
        draws = partial(sampling, rollout=config.rollout)
        validations += [(draws, options), (pass_ks, options), (sources, options)]
    yield from filter(None, (_problem_with(validate, named) for validate, named in validations))


def _problem_with(validate, named) -> str | None:
    try:
        validate(named)
    except ValueError as error:
        return str(error)
    return None


def _run_folder(config: Config, num_ranks: int, name: str) -> Iterator[str]:
    if os.environ.get("RANK", "0") != "0":
        return  # rank 0 will write it; ranks that all ask whether another process does would meet each other
    options, axes = config.logging, config.parallel
    folder = RunFolder(options.root, options.name or name)
    try:
        checkpoint = folder.preview(dump(config), options.resume, options.overwrite)
    except ValueError as error:
        yield str(error)
        return
    if checkpoint is None or num_ranks % (axes.tp * axes.pp * axes.cp):
        return
    layout = Layout.fill(num_ranks, tp=axes.tp, pp=axes.pp, cp=axes.cp, vpp=axes.vpp)
    problem = _problem_with(lambda mine: saved_layout(checkpoint).check(vars(mine)), layout)
    if problem:
        yield problem


def _check_reward_files(config: Config, task: Task) -> None:
    """Run the users' files as their workers will: a missing import shows here, not at the first reward."""
    if task == "grpo" and os.environ.get("RANK", "0") == "0":
        for reference in config.reward.functions:
            try_file(find_function(reference)[0])


def _check_weights(config: Config, source: ModelSource) -> None:
    """Names and shapes of the weights, from headers alone."""
    import torch

    from megatron_eureka.checkpoints import check_hf_keys, check_megatron_keys

    if config.model.spec == "te" and not torch.cuda.is_available():
        raise ValueError("model.spec is 'te', but there is no CUDA device. Use 'auto', or a GPU machine.")
    try:
        (check_hf_keys if source.has_hf_weights else check_megatron_keys)(source.path, source.info)
    except ValueError as error:
        raise ValueError(f"model.path: {error}") from error


def _check_processor(source: ModelSource) -> None:
    from megatron_eureka.data.processor import check_chat_template, load_processor

    try:
        check_chat_template(load_processor(source), source.folder.path)
    except ValueError as error:
        raise ValueError(f"model.path: {error}") from error

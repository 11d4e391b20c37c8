"""`megatron-eureka train` and `sft`. Under torchrun or srun a command is one rank; alone it starts the ranks itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from megatron_eureka.config.checks import check, doubts
from megatron_eureka.config.known_models import KNOWN_MODELS, find_model_info
from megatron_eureka.config.load import dump, load_config
from megatron_eureka.config.memory import GIB, estimate_memory
from megatron_eureka.config.model_folder import find_model_folder
from megatron_eureka.config.model_info import ModelInfo
from megatron_eureka.config.schema import Config
from megatron_eureka.evaluate.plan import pass_ks, sampling, sources
from megatron_eureka.launch.elastic import is_rank, launch_ranks, run_rank
from megatron_eureka.log import logger, setup_logging
from megatron_eureka.rewards.service import check_address
from megatron_eureka.rewards.user import find_function
from megatron_eureka.train.run_folder import RunFolder

ConfigFile = Annotated[Path, typer.Argument(help="YAML file of options, such as configs/digits/grpo.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Options to change: section.option=value, or YAML files to lay over.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved options and the rank grid; start nothing.")]

TRAIN_HELP = """Train a model by GRPO.

Examples:

  megatron-eureka train configs/digits/grpo.yaml

  megatron-eureka train configs/digits/grpo.yaml train.steps=5 logging.name=short

  megatron-eureka train configs/qwen2_5_vl_7b_1node.yaml --dry-run

  megatron-eureka train configs/qwen2_5_vl_7b_1node.yaml configs/recipe/dapo.yaml model.path=/models/qwen

  torchrun --nproc-per-node 8 -m megatron_eureka train configs/qwen2_5_vl_7b_1node.yaml model.path=/models/qwen
"""
SFT_HELP = """Fine-tune a model on demonstrations (a cold start for GRPO).

Examples:

  megatron-eureka sft configs/digits/sft.yaml

  megatron-eureka sft configs/digits/sft.yaml train.steps=10 parallel.tp=2
"""


def train(config: ConfigFile, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Train by GRPO."""

    def body(options: Config, name: str) -> None:
        from megatron_eureka.train.grpo import train as run

        run(options, name)

    _command("grpo", "train", config, overrides or [], dry_run, body)


def sft(config: ConfigFile, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Fine-tune on demonstrations."""

    def body(options: Config, name: str) -> None:
        from megatron_eureka.train.sft import fine_tune

        fine_tune(options, name)

    _command("sft", "sft", config, overrides or [], dry_run, body)


def _command(
    task: Literal["grpo", "sft"],
    command: str,
    file: Path,
    overrides: list[str],
    dry_run: bool,
    body: Callable[[Config, str], None],
) -> None:
    as_rank = is_rank() and not dry_run  # first: it tells srun's ranks their numbers, and rank 0 alone logs
    setup_logging()
    config = load_config(file, overrides)
    if as_rank:
        sys.exit(run_rank(lambda: _run_as_rank(task, config, file.stem, body)))
    num_ranks = config.launch.ranks * config.launch.nodes
    info = _model_info(config.model.path, for_plan=dry_run)
    _check(task, config, info, num_ranks, for_plan=dry_run)
    if dry_run:
        _tell_doubts(task, config)
        typer.echo(_plan(config, info, num_ranks))
        return
    if config.launch.nodes > 1:
        raise ValueError(
            f"launch.nodes is {config.launch.nodes}: this command starts ranks on one machine only. Start one rank a "
            "GPU with torchrun or srun (see examples/), or set launch.nodes to 1."
        )
    RunFolder(config.logging.root, config.logging.name or file.stem).check(
        config.logging.resume, config.logging.overwrite
    )
    sys.exit(launch_ranks([command, str(file), *overrides], num_ranks))


def _run_as_rank(task: Literal["grpo", "sft"], config: Config, name: str, body: Callable[[Config, str], None]) -> None:
    """What torchrun, srun or our launcher started: the ranks that are there, not `launch`, say how many there are."""
    _check(task, config, _model_info(config.model.path), int(os.environ["WORLD_SIZE"]))
    _tell_doubts(task, config)
    body(config, name)


def _check(
    task: Literal["grpo", "sft"], config: Config, info: ModelInfo | None, num_ranks: int, for_plan: bool = False
) -> None:
    check(config, info, num_ranks, task, named_parts(config, for_plan) if task == "grpo" else ())


def _tell_doubts(task: Literal["grpo", "sft"], config: Config) -> None:
    for doubt in doubts(config) if task == "grpo" else ():
        logger.warning("%s", doubt)


def named_parts(config: Config, for_plan: bool = False) -> list[str]:
    """What is wrong with benchmarks, reward functions and services that the options name, before a job starts.

    Addresses are looked at, not asked.

    Args:
        for_plan: benchmarks may lie on another machine.
    """
    options, reward = config.evaluation, config.reward
    checks = [(find_function, reference) for reference in reward.functions]
    checks += [(check_address, url) for url in reward.services]
    if options.enabled:
        checks += [(sampling, config), (pass_ks, options), (sources, options)]
    problems = []
    for look, named in checks:
        try:
            look(named)
        except ValueError as error:
            problems.append(str(error))
    if options.enabled and not for_plan and not problems:
        missing = [source for source in sources(options) if not source.path.exists()]
        problems += [f"evaluation.benchmarks: {source.path} ({source.name}) is not there." for source in missing]
    return problems


def _model_info(path: str, for_plan: bool = False) -> ModelInfo | None:
    """Sizes of the model in a folder.

    Args:
        for_plan: a published model's name will do, and for a folder that will be made before the run, such as an
            export, nothing is known: None.
    """
    if not path or (for_plan and not Path(path).exists() and path not in KNOWN_MODELS):
        return None  # of an empty path `check` speaks
    try:
        return find_model_info(path) if for_plan else ModelInfo.from_folder(path)
    except ValueError as error:
        raise ValueError(f"model.path: {error}") from error


def _plan(config: Config, info: ModelInfo | None, num_ranks: int) -> str:
    from megatron_eureka.parallel.layout import Layout

    parallel = config.parallel
    layout = Layout.fill(num_ranks, tp=parallel.tp, pp=parallel.pp, cp=parallel.cp, vpp=parallel.vpp)
    engines = f"{num_ranks // config.rollout.tp} engines of tp {config.rollout.tp}, colocated"
    if info is None:
        left_out = f"{config.model.path} is not there yet: what depends on the model's sizes was not checked"
        return f"{dump(config)}\n{layout.grid()}\n{engines}\n{left_out}"
    memory = estimate_memory(config, info, num_ranks)
    parts = ", ".join(f"{name.replace('_', ' ')} {value / GIB:.2f}" for name, value in vars(memory).items())
    folder = Path(config.model.path)
    found = f"model: {find_model_folder(folder) if folder.is_dir() else f'published sizes of {folder}'}"
    total = f"memory of the fullest rank, GiB (estimate): training {memory.training / GIB:.2f} ({parts})"
    return f"{dump(config)}\n{layout.grid()}\n{engines}\n{found}\n{total}"

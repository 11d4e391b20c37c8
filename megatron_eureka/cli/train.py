"""`megatron-eureka train` and `sft`. Under torchrun or srun a command is one rank; alone it starts the ranks itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from megatron_eureka.config.checks import Task, doubts
from megatron_eureka.config.load import dump, load_config
from megatron_eureka.config.schema import Config
from megatron_eureka.families.source import ModelSource
from megatron_eureka.launch.elastic import is_rank, launch_ranks, run_rank
from megatron_eureka.log import logger, setup_logging
from megatron_eureka.parallel.layout import Layout
from megatron_eureka.planner.memory import GIB, estimate_memory
from megatron_eureka.train.preflight import Preflight, preflight

Body = Callable[[Config, ModelSource, str], None]  # what a rank does: options, model, name of the run
ConfigFile = Annotated[Path, typer.Argument(help="YAML file of options, such as configs/digits/grpo.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Options to change: section.option=value, or YAML files to lay over.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan: ranks, memory, options; start nothing.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="With --dry-run: all options, not the changed ones alone.")
]


@dataclass(frozen=True)
class Plan:
    """Whether a plan is asked for instead of a run, and how much of it."""

    asked: bool
    verbose: bool


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


def train(config: ConfigFile, overrides: Overrides = None, dry_run: DryRun = False, verbose: Verbose = False) -> None:
    """Train by GRPO."""

    def body(options: Config, source: ModelSource, name: str) -> None:
        from megatron_eureka.train.grpo import train as run

        run(options, source, name)

    _command("grpo", "train", config, overrides or [], Plan(dry_run, verbose), body)


def sft(config: ConfigFile, overrides: Overrides = None, dry_run: DryRun = False, verbose: Verbose = False) -> None:
    """Fine-tune on demonstrations."""

    def body(options: Config, source: ModelSource, name: str) -> None:
        from megatron_eureka.train.sft import fine_tune

        fine_tune(options, source, name)

    _command("sft", "sft", config, overrides or [], Plan(dry_run, verbose), body)


def _command(
    task: Task,
    command: str,
    file: Path,
    overrides: list[str],
    plan: Plan,
    body: Body,
) -> None:
    as_rank = is_rank() and not plan.asked  # first: it tells srun's ranks their numbers, and rank 0 alone logs
    setup_logging()
    config = load_config(file, overrides)
    if as_rank:
        sys.exit(run_rank(lambda: _run_as_rank(task, config, file.stem, body)))
    num_ranks = config.launch.ranks * config.launch.nodes
    found = preflight(config, task, num_ranks, file.stem, for_plan=plan.asked)
    if plan.asked:
        _tell_doubts(task, config)
        typer.echo(_plan(config, found, num_ranks, plan.verbose))
        return
    if config.launch.nodes > 1:
        raise ValueError(
            f"launch.nodes is {config.launch.nodes}: this command starts ranks on one machine only. Start one rank a "
            "GPU with torchrun or srun (see examples/), or set launch.nodes to 1."
        )
    sys.exit(launch_ranks([command, str(file), *overrides], num_ranks))


def _run_as_rank(task: Task, config: Config, name: str, body: Body) -> None:
    """What torchrun, srun or our launcher started: the ranks that are there, not `launch`, say how many there are."""
    found = preflight(config, task, int(os.environ["WORLD_SIZE"]), name)
    _tell_doubts(task, config)
    logger.info("importing torch, transformers and Megatron-Core")
    body(config, found.source, name)


def _tell_doubts(task: Task, config: Config) -> None:
    for doubt in doubts(config) if task == "grpo" else ():
        logger.warning("%s", doubt)


def _plan(config: Config, found: Preflight, num_ranks: int, verbose: bool) -> str:
    """Who does what, the memory, what is missing, and the options: those that differ from the defaults, or all."""
    parallel = config.parallel
    layout = Layout.fill(num_ranks, tp=parallel.tp, pp=parallel.pp, cp=parallel.cp, vpp=parallel.vpp)
    return "\n".join(
        [
            layout.grid(),
            f"{num_ranks // config.rollout.tp} engines of tp {config.rollout.tp}, colocated",
            *_of_model(config, found.source, num_ranks),
            *(f"here and today a run would be refused: {sentence}" for sentence in found.absent),
            "",
            "# all options" if verbose else "# options that differ from the defaults (-v: all)",
            dump(config, only_changed=not verbose),
        ]
    )


def _of_model(config: Config, source: ModelSource | None, num_ranks: int) -> list[str]:
    if source is None:
        return [f"{config.model.path} is not there yet: what depends on the model was not checked"]
    memory = estimate_memory(config, source.info, num_ranks)
    parts = ", ".join(f"{name.replace('_', ' ')} {value / GIB:.2f}" for name, value in vars(memory).items())
    return [
        f"model: {source.folder or f'published sizes of {config.model.path}'}",
        f"memory of the fullest rank, GiB (estimate): training {memory.training / GIB:.2f} ({parts})",
    ]

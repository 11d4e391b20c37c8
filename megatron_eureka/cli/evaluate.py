"""`megatron-eureka eval`: models on benchmarks, beside each other; or a file of responses, without a model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from megatron_eureka.config.load import load_config
from megatron_eureka.config.schema import Config
from megatron_eureka.evaluate import session as evaluation
from megatron_eureka.evaluate.report import main_table
from megatron_eureka.evaluate.session import COMPARE, MODEL, Session
from megatron_eureka.families.companions import companion_problems
from megatron_eureka.families.source import ModelSource
from megatron_eureka.launch.elastic import is_rank, launch_ranks, run_rank
from megatron_eureka.log import logger, setup_logging

EVAL_HELP = """Evaluate a model on benchmarks, or score responses that are there already.

Benchmarks: mathvista, mathverse, mathvision, olympiadbench, k12, jsonl; see docs/evaluation.md. The same command again
goes on where one was cut off. Options may come from a YAML file and as section.option=value, as in training.

Examples:

\b
  megatron-eureka eval examples/benchmarks/eval.yaml --model runs/latest/sft/export
  megatron-eureka eval --model models/tuned --compare models/base --benchmark mathvista=data/MathVista
  megatron-eureka eval evaluation.samples=8 evaluation.temperature=1 --model models/tuned --benchmark k12=k12.json
  megatron-eureka eval --responses said.jsonl --benchmark mathverse=data/MathVerse/testmini.json
"""

# What decides how answers are drawn, and so is nothing to say of answers that are there.
OF_GENERATION = tuple(f"evaluation.{name}" for name in ("samples", "temperature", "prompt", "system_prompt"))

Arguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG] [section.option=value]...", help="YAML file, and options or files over it."),
]
ModelFolder = Annotated[Path | None, typer.Option("--model", help="Hugging Face folder or Megatron checkpoint.")]
Compare = Annotated[
    Path | None, typer.Option(help="Model that --model is held against, the base; with --responses a file.")
]
Benchmarks = Annotated[
    list[str] | None, typer.Option("--benchmark", help="NAME=PATH; may be repeated (evaluation.benchmarks).")
]
Out = Annotated[Path | None, typer.Option(help="Folder of the results; default: eval-MODEL under logging.root.")]
Responses = Annotated[Path | None, typer.Option(help="Score this file of id and response; no model is started.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Remove what an earlier evaluation left in --out.")]
Generate = Annotated[
    str | None, typer.Option(help="Only answer, as `model` or `compare`: for torchrun and srun, before the summary.")
]


def evaluate(
    arguments: Arguments = None,
    model: ModelFolder = None,
    compare: Compare = None,
    benchmark: Benchmarks = None,
    out: Out = None,
    responses: Responses = None,
    overwrite: Overwrite = False,
    generate: Generate = None,
) -> None:
    """Evaluate on benchmarks."""
    as_rank = is_rank()  # first: it tells srun's ranks their numbers, and rank 0 alone logs
    setup_logging()
    file, overrides = _split(arguments or [])
    if benchmark is not None:
        overrides.append(f"evaluation.benchmarks={json.dumps(benchmark)}")
    if responses is not None:
        flags = {"--model": model, "--generate": generate, "--overwrite": overwrite or None}
        options = [name for name in OF_GENERATION if any(given.startswith(f"{name}=") for given in overrides)]
        _reject_with_responses([name for name, value in flags.items() if value is not None] + options)
    config = load_config(file, overrides)
    if responses is not None:
        files = {MODEL: responses} | ({COMPARE: compare} if compare else {})
        out = out or _default_out(config, responses)
        _tell(evaluation.score_files(config, out, files), out)
        return
    models = _models(config, model, compare)
    out = out or _default_out(config, models[MODEL])
    if as_rank:
        sys.exit(run_rank(lambda: _generate_as_rank(config, models, out, generate)))
    command = ["eval", *([str(file)] if file else []), *overrides, "--model", str(models[MODEL]), "--out", str(out)]
    command += ["--compare", str(compare)] if compare else []
    _evaluate(config, models, out, command, overwrite, generate)


def _evaluate(
    config: Config, models: dict[str, Path], out: Path, command: list[str], overwrite: bool, only: str | None
) -> None:
    """Start ranks for each model that has something left to answer, then score what was said."""
    for role, path in models.items():
        _check_model(config, path, role)
    if config.launch.nodes > 1:
        raise ValueError(
            f"launch.nodes is {config.launch.nodes}: this command starts ranks on one machine only. Start them with "
            "torchrun or srun and --generate model, then the same command alone for the summary; or set it to 1."
        )
    if overwrite:
        evaluation.clear(out)
    session = evaluation.open_session(config, out, models)
    for role in [only] if only else list(models):
        _answer(session, role, command)
    if only is None:
        _tell(evaluation.finish(session), out)


def _tell(summary: dict, out: Path) -> None:
    typer.echo(f"{main_table(summary)}\n\nMore in {out / 'summary.md'}; an item a line in {out}/*/*.jsonl.")


def _answer(session: Session, role: str, command: list[str]) -> None:
    if role not in session.models:
        raise ValueError(f"--generate {role}: expected one of {', '.join(session.models)}.")
    missing = evaluation.pending(session, role)
    if not missing:
        logger.info("%s has answered everything already", session.models[role])
        return
    logger.info("%s: %d items to answer", session.models[role], missing)
    code = launch_ranks([*command, "--generate", role], session.config.launch.ranks)
    if code:
        sys.exit(code)


def _generate_as_rank(config: Config, models: dict[str, Path], out: Path, role: str | None) -> None:
    if role not in models:
        raise ValueError(
            f"Under torchrun or srun give --generate with one of {', '.join(models)}: the ranks answer for one model. "
            "Afterwards the same command without torchrun, srun and --generate writes the summary."
        )
    # torch and vLLM are loaded where something is generated, and nowhere else.
    from megatron_eureka.evaluate.generate import generate

    generate(config, models[role], out / role)


def _reject_with_responses(names: list[str]) -> None:
    if names:
        raise ValueError(
            f"--responses scores answers that are there already: {', '.join(names)} would change nothing. Leave "
            f"{'it' if len(names) == 1 else 'them'} out, or leave --responses out to have a model answer."
        )


def _models(config: Config, model: Path | None, compare: Path | None) -> dict[str, Path]:
    if model is None and not config.model.path:
        raise ValueError("There is no model: give --model DIR, model.path, or --responses FILE.")
    models = {MODEL: model or Path(config.model.path)}
    if compare is not None:
        models[COMPARE] = compare
    return models


def _check_model(config: Config, model: Path, role: str) -> None:
    try:
        source = ModelSource.open(model)
    except ValueError as error:
        raise ValueError(f"--{role}: {error}") from error
    problems = companion_problems(source.hf, source.family)
    if problems:
        raise ValueError("\n".join(f"--{role}: {problem}" for problem in problems))
    prompt, response = config.data.max_prompt_tokens, config.rollout.max_response_tokens
    if prompt + response > source.info.max_positions:
        raise ValueError(
            f"data.max_prompt_tokens {prompt} + rollout.max_response_tokens {response} = {prompt + response} exceed "
            f"the {source.info.max_positions} positions of {model}. Lower one of the two."
        )


def _split(arguments: list[str]) -> tuple[Path | None, list[str]]:
    """The options' file, and what is laid over it: options and further files, in their order."""
    if arguments and "=" not in arguments[0]:
        return Path(arguments[0]), arguments[1:]
    return None, list(arguments)


def _default_out(config: Config, path: Path) -> Path:
    """Named by the last two parts of the path: a model often lies in a folder `export` or `hf`."""
    return Path(config.logging.root) / "-".join(["eval", *path.absolute().parts[-2:]]).removesuffix(path.suffix)

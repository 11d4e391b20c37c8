"""The command line: `main` and the commands, which stand in files of their own."""

from __future__ import annotations

import sys

import typer

from megatron_eureka.cli import data, evaluate, train
from megatron_eureka.files import DiskFull
from megatron_eureka.launch.elastic import BAD_INPUT, FAILED

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="GRPO for Qwen2.5-VL on Megatron-Core and vLLM.",
)
app.command(help=train.TRAIN_HELP)(train.train)
app.command(help=train.SFT_HELP)(train.sft)
app.command("eval", help=evaluate.EVAL_HELP)(evaluate.evaluate)
app.add_typer(data.app, name="data")


def main() -> None:
    """Entry point; bad input is one line on standard error and exit code 2, a full disk one and exit code 1."""
    try:
        app()
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(BAD_INPUT)
    except DiskFull as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(FAILED)

"""The command line: `main` and the commands, which stand in files of their own."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from megatron_eureka import __version__
from megatron_eureka.cli import convert, data, evaluate, train
from megatron_eureka.files import DiskFull
from megatron_eureka.launch.elastic import BAD_INPUT, FAILED

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="GRPO for Qwen2.5-VL on Megatron-Core and vLLM.",
)
app.command(help=train.TRAIN_HELP)(train.train)
app.command(help=train.SFT_HELP)(train.sft)
app.command("eval", help=evaluate.EVAL_HELP)(evaluate.evaluate)
app.add_typer(data.app, name="data")
app.add_typer(convert.app, name="convert")


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"megatron_eureka {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Options that come before a command."""


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

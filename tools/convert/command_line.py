"""What the three commands share: options, and how they end."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from megatron_eureka.log import setup_logging

DIFFERENT, FAILED, BAD_INPUT = 1, 1, 2  # exit codes

Hf = Annotated[Path, typer.Option("--hf", help="Hugging Face folder.")]
Megatron = Annotated[Path, typer.Option("--megatron", help="Megatron checkpoint (torch_dist).")]
Dtype = Annotated[
    Literal["bf16", "fp16", "fp32"] | None, typer.Option("--dtype", help="Cast to this; by default nothing is cast.")
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Threads; by default as many as are worth it, at most 4.")
]
CheckFinite = Annotated[
    bool,
    typer.Option("--check-finite/--no-check-finite", help="Refuse infinities and NaN, or convert them as they are."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a model folder of the target's name.")]
Fsync = Annotated[
    bool, typer.Option("--fsync", help="Have all bytes on the disk before the target appears; takes longer.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and plan all, write nothing.")]


def dtype_of(name: str | None):
    """torch's dtype of an option."""
    import torch

    return {None: None, "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[name]


def run(command: Callable[..., None], failed: int = FAILED) -> None:
    """Run a command. Bad input is one message on standard error and exit code 2.

    Args:
        failed: exit code when a file could not be read or written.
    """
    setup_logging()
    # As Ctrl-C does it, so that what is half-written goes: a job's time limit comes as SIGTERM.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(command)
    try:
        app()
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(BAD_INPUT)
    except (RuntimeError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(failed)

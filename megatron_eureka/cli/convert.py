"""`megatron-eureka convert`: checkpoints between Hugging Face and Megatron, and whether two are equal.

The commands import what reads weights: with it torch comes, and seconds for every other command.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from megatron_eureka.launch.elastic import BAD_INPUT, FAILED
from megatron_eureka.log import setup_logging

DIFFERENT = 1  # exit code of verify

Hf = Annotated[Path, typer.Option("--hf", help="Hugging Face folder.")]
Megatron = Annotated[Path, typer.Option("--megatron", help="Megatron checkpoint (torch_dist).")]
Tp = Annotated[int, typer.Option("--tp", min=1, help="Tensor-parallel size of the run to come.")]
Pp = Annotated[int, typer.Option("--pp", min=1, help="Pipeline stages of the run to come.")]
Vpp = Annotated[int, typer.Option("--vpp", min=1, help="Virtual chunks of each of its stages.")]
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
Like = Annotated[
    Path | None,
    typer.Option("--like", help="Hugging Face folder of the model, if the checkpoint does not hold its small files."),
]
ShardGb = Annotated[float, typer.Option("--shard-gb", min=0.001, max=1e6, help="Size of a file of weights.")]
Logits = Annotated[bool, typer.Option("--logits", help="Also run both models, in float32, and compare.")]

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Convert checkpoints between Hugging Face and Megatron."
)


@app.command("hf-to-megatron")
def hf_to_megatron(
    hf: Hf,
    megatron: Megatron,
    tp: Tp = 1,
    pp: Pp = 1,
    vpp: Vpp = 1,
    dtype: Dtype = None,
    workers: Workers = None,
    check_finite: CheckFinite = True,
    overwrite: Overwrite = False,
    fsync: Fsync = False,
    dry_run: DryRun = False,
) -> None:
    """Convert a Hugging Face folder to a Megatron checkpoint (torch_dist).

    The files are cut for --tp, --pp and --vpp, so that each rank of that layout reads contiguous bytes; every other
    layout loads the same checkpoint.

    Example: megatron-eureka convert hf-to-megatron --hf Qwen2.5-VL-7B-Instruct --megatron qwen-7b --tp 4
    """
    with _named_failures():
        from megatron_eureka.checkpoints import hf_to_megatron as convert

        result = convert(
            hf,
            megatron,
            tp=tp,
            pp=pp,
            vpp=vpp,
            dtype=_dtype(dtype),
            workers=workers,
            check_finite=check_finite,
            overwrite=overwrite,
            fsync=fsync,
            dry_run=dry_run,
        )
        typer.echo(result)


@app.command("megatron-to-hf")
def megatron_to_hf(
    megatron: Megatron,
    hf: Hf,
    like: Like = None,
    dtype: Dtype = None,
    shard_gb: ShardGb = 5.0,
    workers: Workers = None,
    check_finite: CheckFinite = True,
    overwrite: Overwrite = False,
    fsync: Fsync = False,
    dry_run: DryRun = False,
) -> None:
    """Convert a Megatron checkpoint to a Hugging Face folder that transformers and vLLM load.

    Takes converted checkpoints and those of runs, written under any layout. Config, tokenizer, processor and
    generation config come along.

    Example: megatron-eureka convert megatron-to-hf --megatron runs/grpo/checkpoints/step_40 --hf digits-grpo
    """
    with _named_failures():
        from megatron_eureka.checkpoints import megatron_to_hf as convert

        result = convert(
            megatron,
            hf,
            like=like,
            dtype=_dtype(dtype),
            workers=workers,
            check_finite=check_finite,
            max_file_bytes=int(shard_gb * 1e9),
            overwrite=overwrite,
            fsync=fsync,
            dry_run=dry_run,
        )
        typer.echo(result)


@app.command()
def verify(hf: Hf, megatron: Megatron, logits: Logits = False, workers: Workers = None) -> None:
    """Compare all keys and all tensors bit by bit, and on request the logits of both models.

    Exit code 0: equal; 1: different; 2: they could not be compared.

    Example: megatron-eureka convert verify --hf Qwen2.5-VL-7B-Instruct --megatron qwen-7b
    """
    with _named_failures(failed=BAD_INPUT):  # as `cmp` does it: 1 says different, and nothing else
        from megatron_eureka.checkpoints import verify as compare

        result = compare(hf, megatron, workers=workers)
        typer.echo(result)
        equal = result.equal
        if logits:
            from megatron_eureka.evaluate.compare_logits import compare_logits

            comparison = compare_logits(hf, megatron)
            typer.echo(comparison)
            equal = equal and comparison.equal
    if not equal:
        sys.exit(DIFFERENT)


def _dtype(name: str | None):
    """torch's dtype of an option."""
    import torch

    return {None: None, "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[name]


@contextmanager
def _named_failures(failed: int = FAILED) -> Iterator[None]:
    """Bad input is one message on standard error and exit code 2; what could not be read or written has code `failed`.

    A command ends at SIGTERM, which a job's time limit sends, as at Ctrl-C: what is half-written goes.
    """
    setup_logging()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    except (ValueError, RuntimeError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(BAD_INPUT if isinstance(error, ValueError) else failed)

"""Convert a Megatron checkpoint of Qwen2.5-VL to a Hugging Face folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.convert import command_line as options  # noqa: E402
from tools.convert.command_line import dtype_of, run  # noqa: E402

Like = typer.Option("--like", help="Hugging Face folder of the model, if the checkpoint does not hold its small files.")


def main(
    megatron: options.Megatron,
    hf: options.Hf,
    like: Annotated[Path | None, Like] = None,
    dtype: options.Dtype = None,
    shard_gb: Annotated[float, typer.Option("--shard-gb", min=0.001, max=1e6, help="Size of a file of weights.")] = 5.0,
    workers: options.Workers = None,
    check_finite: options.CheckFinite = True,
    overwrite: options.Overwrite = False,
    fsync: options.Fsync = False,
    dry_run: options.DryRun = False,
) -> None:
    """Convert a Megatron checkpoint to a Hugging Face folder that transformers and vLLM load.

    Takes converted checkpoints and those of runs, written under any layout. Config, tokenizer, processor and
    generation config come along.

    Example: python tools/convert/megatron_to_hf.py --megatron runs/grpo/checkpoints/step_100 --hf qwen-7b-grpo
    """
    from megatron_eureka.weights import megatron_to_hf

    result = megatron_to_hf(
        megatron,
        hf,
        like=like,
        dtype=dtype_of(dtype),
        workers=workers,
        check_finite=check_finite,
        max_shard_bytes=int(shard_gb * 1e9),
        overwrite=overwrite,
        fsync=fsync,
        dry_run=dry_run,
    )
    print(result)


if __name__ == "__main__":
    run(main)

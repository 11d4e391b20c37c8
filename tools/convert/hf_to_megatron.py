"""Convert a Hugging Face folder of Qwen2.5-VL to a Megatron checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.convert import command_line as options  # noqa: E402
from tools.convert.command_line import dtype_of, run  # noqa: E402


def main(
    hf: options.Hf,
    megatron: options.Megatron,
    tp: Annotated[int, typer.Option("--tp", min=1, help="Tensor-parallel size of the run to come.")] = 1,
    pp: Annotated[int, typer.Option("--pp", min=1, help="Pipeline stages of the run to come.")] = 1,
    vpp: Annotated[int, typer.Option("--vpp", min=1, help="Virtual chunks of each of its stages.")] = 1,
    dtype: options.Dtype = None,
    workers: options.Workers = None,
    check_finite: options.CheckFinite = True,
    overwrite: options.Overwrite = False,
    fsync: options.Fsync = False,
    dry_run: options.DryRun = False,
) -> None:
    """Convert a Hugging Face folder of Qwen2.5-VL to a Megatron checkpoint (torch_dist).

    The files are cut for --tp, --pp and --vpp, so that each rank of that layout reads contiguous bytes; every other
    layout loads the same checkpoint.

    Example: python tools/convert/hf_to_megatron.py --hf Qwen2.5-VL-7B-Instruct --megatron qwen-7b --tp 4
    """
    from megatron_eureka.weights import hf_to_megatron

    result = hf_to_megatron(
        hf,
        megatron,
        tp=tp,
        pp=pp,
        vpp=vpp,
        dtype=dtype_of(dtype),
        workers=workers,
        check_finite=check_finite,
        overwrite=overwrite,
        fsync=fsync,
        dry_run=dry_run,
    )
    print(result)


if __name__ == "__main__":
    run(main)

"""Compare a Hugging Face folder of Qwen2.5-VL with a Megatron checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.convert import command_line as options  # noqa: E402
from tools.convert.command_line import run  # noqa: E402


def main(
    hf: options.Hf,
    megatron: options.Megatron,
    logits: Annotated[bool, typer.Option("--logits", help="Also run both models, in float32, and compare.")] = False,
    workers: options.Workers = None,
) -> None:
    """Compare all keys and all tensors bit by bit, and on request the logits of both models.

    Exit code 0: equal; 1: different; 2: they could not be compared.

    Example: python tools/convert/verify.py --hf Qwen2.5-VL-7B-Instruct --megatron qwen-7b
    """
    from megatron_eureka.weights import verify

    result = verify(hf, megatron, workers=workers)
    print(result)
    equal = result.equal
    if logits:
        from megatron_eureka.evaluate.compare_logits import compare_logits

        comparison = compare_logits(hf, megatron)
        print(comparison)
        equal = equal and comparison.equal
    if not equal:
        sys.exit(options.DIFFERENT)


if __name__ == "__main__":
    run(main, failed=options.BAD_INPUT)  # as `cmp` does it: 1 says different, and nothing else

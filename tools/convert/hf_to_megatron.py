"""Convert a Hugging Face folder of Qwen2.5-VL to a Megatron checkpoint: `megatron-eureka convert hf-to-megatron`."""

import sys
from pathlib import Path

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron_eureka.cli.convert import hf_to_megatron  # noqa: E402

if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(hf_to_megatron)
    app()

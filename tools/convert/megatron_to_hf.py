"""Convert a Megatron checkpoint of Qwen2.5-VL to a Hugging Face folder: `megatron-eureka convert megatron-to-hf`."""

import sys
from pathlib import Path

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron_eureka.cli.convert import megatron_to_hf  # noqa: E402

if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(megatron_to_hf)
    app()

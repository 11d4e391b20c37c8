"""docs/options.md is what the schema says."""

from pathlib import Path

from megatron_eureka.config.load import option_fields
from megatron_eureka.config.options import render_options, type_name

ROOT = Path(__file__).parents[2]


def test_options_doc_is_fresh():
    written = (ROOT / "docs/options.md").read_text(encoding="utf-8")
    assert written == render_options(), "run: python -m megatron_eureka.config.options > docs/options.md"


def test_types_are_readable():
    fields = option_fields()
    assert type_name(fields["train.steps"]) == "int > 0"
    assert type_name(fields["algorithm.filter.lower"]) == "float >= 0, <= 1"
    assert type_name(fields["parallel.sp"]) == "bool or null"
    assert type_name(fields["data.train"]) == "list of str"
    assert type_name(fields["precision.dtype"]) == "`fp32` or `bf16`"

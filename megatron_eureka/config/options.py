"""Render docs/options.md from the schema: `python -m megatron_eureka.config.options > docs/options.md`."""

from __future__ import annotations

import json
import sys
import typing
from typing import Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from megatron_eureka.config.bounds import MAX_COUNT
from megatron_eureka.config.load import option_fields

HEAD = """# Options

Generated from `megatron_eureka/config/schema.py` by `python -m megatron_eureka.config.options > docs/options.md`.
Give options in a YAML file (`section:` and `option: value` below it; `base: other.yaml` inherits) or on the command
line (`section.option=value`, the value in YAML). Whole numbers are at most 2,147,483,647, other numbers are finite.
"""


def render_options() -> str:
    """Every option with its type, default and meaning, one table a section."""
    lines = [HEAD]
    section = None
    for name, field in option_fields().items():
        owner, _, _ = name.rpartition(".")
        if owner != section:
            section = owner
            lines += [f"\n## {section}\n", "| option | type | default | meaning |", "|---|---|---|---|"]
        cells = (f"`{name}`", type_name(field), f"`{_default(field.default)}`", field.description or "")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def type_name(field: FieldInfo) -> str:
    """A field's type and bounds as a reader would write them, such as `int > 0`."""
    signs = {Gt: (">", "gt"), Ge: (">=", "ge"), Lt: ("<", "lt"), Le: ("<=", "le")}
    bounds = [
        f"{signs[type(item)][0]} {_number(getattr(item, signs[type(item)][1]))}"
        for item in field.metadata
        if type(item) in signs and getattr(item, signs[type(item)][1]) != MAX_COUNT
    ]
    return " ".join([_plain(field.annotation), ", ".join(bounds)]).strip()


def _plain(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " \\| ".join(f"`{choice}`" for choice in arguments).replace("\\|", "or")
    if origin is list:
        return f"list of {_plain(arguments[0])}"
    if arguments:
        return " or ".join(_plain(argument) for argument in arguments)
    return "null" if annotation is type(None) else annotation.__name__


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


def _default(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)


if __name__ == "__main__":
    sys.stdout.write(render_options())

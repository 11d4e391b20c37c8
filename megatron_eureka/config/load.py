"""YAML files with inheritance and dotted overrides -> one typed `Config`, with errors that name file and option."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from megatron_eureka.config.named_files import SUFFIXES, find_file
from megatron_eureka.config.renamed import renamed
from megatron_eureka.config.schema import Config

COMMAND_LINE = "command line"


def load_config(path: str | Path | None, overrides: Iterable[str] = ()) -> Config:
    """Read a run's options.

    Args:
        path: a YAML file, or the name of one that comes with the package (`digits/grpo`). `base: other.yaml` (relative
            to the file) inherits; mappings merge, lists are replaced. None: the defaults.
        overrides: laid over the file in their order, the later one wins: further YAML files or names (with their own
            bases), such as a recipe, and `section.option=value` strings; the value is YAML (`a.b=[x, y]`, `a.b=1e-4`),
            empty is "".

    Raises:
        ValueError: a missing or unreadable file, a cycle of bases, an unknown option, or a value of a wrong type.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for file, content in _chain(find_file(path)) if path is not None else ():
        _take(content, str(file), values, origins)
    for override in overrides:
        if override and "=" not in override:
            for file, content in _chain(_layer(override)):
                _take(content, str(file), values, origins)
        else:
            _take(_parse_override(override), COMMAND_LINE, values, origins)
    try:
        # Strict: "3" is no number and 1 no truth value, so a slip of quoting is an error and not another run.
        return Config.model_validate(_nested(values), strict=True)
    except ValidationError as error:
        raise ValueError(_explain(error, origins)) from None


def dump(config: Config, only_changed: bool = False) -> str:
    """The resolved options as YAML that `load_config` reads back to an equal Config.

    Args:
        only_changed: those that differ from the defaults; "{}" if none do.
    """
    options = config.model_dump(exclude_defaults=only_changed)
    return yaml.safe_dump(options, sort_keys=False, allow_unicode=True, width=120)


def schema_json() -> str:
    """JSON schema of the YAML files, for editors that complete and check; `base` is part of it."""
    schema = Config.model_json_schema()
    schema["title"] = "megatron_eureka run"
    schema["properties"]["base"] = {"type": "string", "description": "YAML file to inherit from, relative to this one."}
    return json.dumps(schema, indent=2) + "\n"


def option_fields(section: type[BaseModel] = Config, prefix: str = "") -> dict[str, FieldInfo]:
    """Every option by its dotted name, in the schema's order."""
    fields: dict[str, FieldInfo] = {}
    for name, field in section.model_fields.items():
        if _is_section(field):
            fields |= option_fields(field.annotation, f"{prefix}{name}.")
        else:
            fields[prefix + name] = field
    return fields


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _chain(path: Path) -> list[tuple[Path, dict]]:
    """The file and the files it inherits from, furthest base first, without their `base` keys."""
    chain: list[tuple[Path, dict]] = []
    seen: list[Path] = []
    current: Path | None = path
    while current is not None:
        if current.resolve() in seen:
            names = " -> ".join(str(file) for file in [*(file for file, _ in reversed(chain)), current])
            raise ValueError(f"{path}: `base` goes in a circle: {names}. Remove one of the `base` lines.")
        seen.append(current.resolve())
        content = _read_yaml(current)
        base = content.pop("base", None)
        if base is not None and not (isinstance(base, str) and base):
            raise ValueError(f"{current}: base = {base!r}: expected the path of one YAML file, relative to this one.")
        chain.insert(0, (current, content))
        current = current.parent / base if base else None
    return chain


def _read_yaml(path: Path) -> dict:
    if not path.is_file():
        raise ValueError(f"{path}: no such file. Give a YAML file of options, such as configs/digits/grpo.yaml.")
    try:
        # omegaconf's loader reads 1e-6 as a number (plain PyYAML: a string) and refuses a key given twice.
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (yaml.YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a mapping of sections (model: ..., train: ...), got {content!r}.")
    return content


def _layer(given: str) -> Path:
    try:
        return find_file(given)
    except ValueError as error:
        hint = "An override is written section.option=value, for example train.steps=10."
        raise ValueError(str(error) if given.endswith(SUFFIXES) else f"{error} {hint}") from None


def _parse_override(override: str) -> dict:
    name, equals, text = override.partition("=")
    name = name.strip()
    if not equals or not name:
        raise ValueError(
            f"{override!r} is no override. Write section.option=value, for example train.steps=10, or "
            "the name of a YAML file."
        )
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"] if text else ""
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"{override!r}: the value is not readable as YAML: {error}. Quote it.") from error
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


def _take(content: Mapping, origin: str, values: dict[str, Any], origins: dict[str, str]) -> None:
    """Put one source's options over those of earlier sources, as dotted names."""
    for name, value in _flat(content, Config, "", origin):
        values[name], origins[name] = renamed(name, value), origin


def _flat(content: Mapping, section: type[BaseModel], prefix: str, origin: str):
    for key, value in content.items():
        name = f"{prefix}{key}"
        field = section.model_fields.get(key)
        if field is None:
            raise ValueError(f"{origin}: {name} is no option; {_nearest(name)}")
        if not _is_section(field):
            yield name, value
        elif isinstance(value, Mapping):
            yield from _flat(value, field.annotation, f"{name}.", origin)
        elif value is not None:  # `section:` with nothing under it is an empty section
            raise ValueError(f"{origin}: {name} = {value!r}: expected a mapping of options; {name} is a section.")


def _nearest(name: str) -> str:
    """A hint: an option of the same last name elsewhere, else the most similar option or section."""
    options = list(option_fields())
    leaf = _leaf(name)
    near = difflib.get_close_matches(name, [option for option in options if _leaf(option) == leaf], n=1, cutoff=0.0)
    sections = {option.rpartition(".")[0] for option in options}
    near += difflib.get_close_matches(name, [*options, *sorted(sections)], n=1, cutoff=0.6)
    near += [option for option in options if difflib.get_close_matches(leaf, [_leaf(option)], cutoff=0.7)]
    return f"did you mean {near[0]}?" if near else "docs/options.md lists all options."


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _nested(values: Mapping[str, Any]) -> dict:
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *sections, leaf = name.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[leaf] = value
    return tree


def _explain(error: ValidationError, origins: Mapping[str, str]) -> str:
    fields = option_fields()
    lines = []
    for problem in error.errors():
        given = ".".join(str(part) for part in problem["loc"])
        name = next((option for option in fields if given == option or given.startswith(f"{option}.")), given)
        expected = problem["msg"].replace("Input should be", "expected")
        if problem["type"] == "list_type":
            expected += f", written as [{problem['input']}]"
            expected += f'; in a shell: "{given}=[{problem["input"]}]"' if origins.get(name) == COMMAND_LINE else ""
        line = f"{origins.get(name, 'default')}: {given} = {problem['input']!r}: {expected}."
        if name in fields:
            line += f" {name}: {fields[name].description}"
        if line not in lines:
            lines.append(line)
    return "\n".join(lines)

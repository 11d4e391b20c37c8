"""The YAML files that come with the package, by name: `dapo`, `digits/grpo`."""

from __future__ import annotations

import difflib
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
SUFFIXES = (".yaml", ".yml")


def configs_folder() -> Path:
    """Where they are: in the package of a wheel, beside it in a clone."""
    inside = _PACKAGE / "configs"
    return inside if inside.is_dir() else _PACKAGE.parent / "configs"


def names() -> dict[str, Path]:
    """Every file by its name: its path in the folder without the suffix; a recipe's is its bare name."""
    folder = configs_folder()
    files = sorted(folder.rglob("*.yaml"))
    return {str(file.relative_to(folder).with_suffix("")).removeprefix("recipe/"): file for file in files}


def find_file(given: str | Path) -> Path:
    """The YAML file that is meant: a path, or the name of one that comes with the package.

    Raises:
        ValueError: there is none.
    """
    path, name = Path(given), str(given)
    if path.is_file():
        return path
    known = names()
    if name in known:
        return known[name]
    if name.endswith(SUFFIXES):
        raise ValueError(f"{given}: no such file. Give a YAML file of options, or the name of one that comes along.")
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}."
    raise ValueError(f"{given}: no such file, and none of that name comes with the package; {hint}")

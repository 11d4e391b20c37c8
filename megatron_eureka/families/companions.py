"""The small files that a run reads beside the weights: are tokenizer and processor there, and is their type known?

Looked at without transformers, so that it is said before anything starts; that they load shows only when they do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from megatron_eureka.families.family import Family

TOKENIZER_CONFIG = "tokenizer_config.json"
PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"  # since transformers 5 all in the second


def companion_problems(folder: Path, family: Family) -> list[str]:
    """Sentences about what a Hugging Face folder lacks for a run: files, or a type that transformers knows."""
    missing, found = _missing(folder, sees=bool(family.image_processors)), []
    if missing:
        found.append(
            f"{folder} lacks {', '.join(missing)}: no prompt can be made without. Copy "
            f"{'it' if len(missing) == 1 else 'them'} from the model that it was made from."
        )
    for name in (PREPROCESSOR, PROCESSOR) if family.image_processors else ():
        content = _read(folder / name)
        for section in (content, content.get("image_processor")):
            kind = section.get("image_processor_type") if isinstance(section, dict) else None
            if kind is not None and kind not in family.image_processors:
                found.append(
                    f"{folder / name}: image_processor_type is {kind!r}, which transformers does not have. Write "
                    f"{family.image_processors[0]!r} there: it does the same."
                )
    return found


def _missing(folder: Path, sees: bool) -> list[str]:
    """Names of files that are not there, alternatives in one."""

    def there(name):
        return (folder / name).is_file()

    missing = [] if there(TOKENIZER_CONFIG) else [TOKENIZER_CONFIG]
    if not there("tokenizer.json") and not (there("vocab.json") and there("merges.txt")):
        missing.append("tokenizer.json (or vocab.json and merges.txt)")
    if sees and not there(PREPROCESSOR) and not there(PROCESSOR):
        missing.append(f"{PREPROCESSOR} (or {PROCESSOR})")
    if not _has_chat_template(folder):
        missing.append("chat_template.jinja (or chat_template.json)")
    return missing


def _has_chat_template(folder: Path) -> bool:
    files = ("chat_template.jinja", "chat_template.json")
    inside = (TOKENIZER_CONFIG, PROCESSOR)  # where older releases put it
    return any((folder / name).is_file() for name in files) or any(
        "chat_template" in _read(folder / name) for name in inside
    )


def _read(file: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none: what is damaged, its reader names."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}

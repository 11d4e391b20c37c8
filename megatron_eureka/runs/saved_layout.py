"""The layout that a checkpoint of a run was written under; resuming needs the same one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LAYOUT = "layout.json"  # in a checkpoint, beside Megatron-Core's files


@dataclass(frozen=True)
class SavedLayout:
    """The layout that a checkpoint was written under."""

    checkpoint: Path
    axes: dict[str, int] | None  # None: its file is missing or damaged

    def check(self, mine: Mapping[str, int]) -> None:
        """Refuse to resume under another one, sizes by axis.

        Raises:
            ValueError: naming both.
        """
        if self.axes not in (None, mine):
            raise ValueError(
                f"The checkpoint {self.checkpoint} was written by {_names(self.axes)}; this run has "
                f"{_names(mine)}. Resume under the same layout, or start another run from its weights, with "
                f"model.path={self.checkpoint}."
            )


def saved_layout(checkpoint: Path) -> SavedLayout:
    """Read the layout of a checkpoint."""
    try:
        return SavedLayout(checkpoint, dict(json.loads((checkpoint / LAYOUT).read_text("utf-8"))))
    except (OSError, ValueError, TypeError):
        return SavedLayout(checkpoint, None)


def _names(axes: Mapping[str, int]) -> str:
    return ", ".join(f"{axis} {size}" for axis, size in axes.items())

"""Why a row cannot be used."""

from __future__ import annotations


class BadRow(ValueError):
    """A row that cannot be used; `kind` says what is wrong with it: json, message, answer, picture, ..."""

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind = kind

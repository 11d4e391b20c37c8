"""Texts of answers: what words are the same, and where one of several ends."""

from __future__ import annotations

import re

from megatron_eureka.rewards.notation import DELIMITERS, plain, plain_forms

MAX_PARTS = 32  # of one text; beyond, it is no list of answers
_AND = re.compile(r"\s(?:and|or)\s|;|\n|\\text\s*\{\s*(?:and|or)\s*\}")


def folded(text: str) -> str:
    """For comparing words: plain, in lower case, without quotes and a leading article."""
    text = plain(text).casefold().strip("'\"`")
    for article in ("the ", "a ", "an "):
        if text.startswith(article) and len(text) > len(article) + 1:
            return text[len(article) :]
    return text


def split_answers(text: str) -> tuple[str, ...]:
    """Several answers of one text: cut at commas outside brackets, at `and`, `or`, `;` and line ends; +- counts twice.

    A text of more than MAX_PARTS parts is one answer.
    """
    text = _AND.sub(",", DELIMITERS.sub("", plain_forms(text)))
    parts, depth, start = [], 0, 0
    for place, sign in enumerate(text):
        if sign in "([{":
            depth += 1
        elif sign in ")]}":
            depth = max(0, depth - 1)
        elif sign == "," and not depth:
            parts.append(text[start:place])
            start = place + 1
    parts = [part.strip() for part in [*parts, text[start:]] if part.strip()]
    if len(parts) > MAX_PARTS:
        return (text.strip(),)
    return tuple(signed for part in parts for signed in _both_signs(part))


def _both_signs(part: str) -> tuple[str, ...]:
    for sign in ("\\pm", "±"):
        if part.count(sign) == 1:
            return part.replace(sign, "+").removeprefix("+"), part.replace(sign, "-")
    return (part,)

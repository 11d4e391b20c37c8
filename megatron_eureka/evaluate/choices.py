"""Which option of a multiple-choice question an answer names: by its letter, or by its text."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from megatron_eureka.evaluate.answers import folded
from megatron_eureka.rewards.notation import plain
from megatron_eureka.rewards.quantities import parse_quantity, same_quantity

LETTERS = "ABCDEFGHIJ"
SIMILAR = 0.85  # of difflib: a typing error in a word of seven letters
MAX_SIMILAR_CHARS = 200  # difflib is quadratic
# In longer texts letters are points of figures, and words and numbers those of the reasoning.
MAX_BARE_CHARS, MAX_CONTAINING_CHARS = 60, 200

_LONE = re.compile(r"\W{0,4}([A-Ja-j])\W{0,4}")
_LED = re.compile(r"\W{0,4}\(?([A-J])(?:\)|[.:)]|\s-)\s*(?=\S)")
_NAMED = re.compile(r"\b(?:option|choice|answer)\b(?:\s(?:is|are))?[\s:(]{0,4}([A-J])\b(?!\s+[a-z])", re.IGNORECASE)
_MARKED = re.compile(r"\(([A-J])\)")
_WORD = re.compile(r"(?<![\w'])([B-HJ])(?![\w'])")


def chosen_letter(answer: str, choices: Sequence[str]) -> str:
    """The letter of the option that an answer names, or "" for none or several.

    In this order: a letter alone or in front ("B", "(B)", "B. 12 cm"); the text of exactly one option; the number of
    exactly one option; letters marked as options, when all are the same; the one option whose text occurs in the
    answer; the one option of very similar text.

    Args:
        choices: texts of the options; empty if they are not known.
    """
    answer = plain(answer)
    allowed = LETTERS[: len(choices)] if choices else LETTERS
    found = _LONE.fullmatch(answer) or _LED.match(answer)
    if found:
        return _allowed(found.group(1).upper(), allowed)
    by_text = _same_text(answer, choices)
    if by_text:
        return by_text
    for pattern in (_NAMED, _MARKED, _WORD) if len(answer) <= MAX_BARE_CHARS else (_NAMED, _MARKED):
        letters = {letter.upper() for letter in pattern.findall(answer)} & set(allowed)
        if letters:
            return letters.pop() if len(letters) == 1 else ""
    return _contained(answer, choices) or _similar(answer, choices)


def _allowed(letter: str, allowed: str) -> str:
    return letter if letter in allowed else ""


def _same_text(answer: str, choices: Sequence[str]) -> str:
    same = [folded(choice) == folded(answer) for choice in choices]
    if sum(same) == 1:
        return LETTERS[same.index(True)]
    number = parse_quantity(answer)
    golds = [parse_quantity(choice) for choice in choices]
    if number is None or any(same):
        return ""
    equal = [gold is not None and same_quantity(number, gold, "", 0.0) for gold in golds]
    return LETTERS[equal.index(True)] if sum(equal) == 1 else ""


def _contained(answer: str, choices: Sequence[str]) -> str:
    """The option whose text stands in the answer as whole words; an option that is part of another one yields to it."""
    if len(answer) > MAX_CONTAINING_CHARS:
        return ""
    text = f" {folded(answer)} "
    inside = []
    for number, choice in enumerate(map(folded, choices)):
        at = text.find(choice) if choice else -1
        if at > 0 and not text[at - 1].isalnum() and not text[at + len(choice)].isalnum():
            inside.append((choice, LETTERS[number]))
    longest = [entry for entry in inside if not any(entry[0] != c and entry[0] in c for c, _ in inside)]
    return longest[0][1] if len(longest) == 1 else ""


def _similar(answer: str, choices: Sequence[str]) -> str:
    text = folded(answer)[:MAX_SIMILAR_CHARS]
    # A figure more or less is another number, not a typing error.
    if not text or any(sign.isdigit() for sign in text):
        return ""
    ratios = [difflib.SequenceMatcher(None, text, folded(choice)[:MAX_SIMILAR_CHARS]).ratio() for choice in choices]
    near = [number for number, ratio in enumerate(ratios) if ratio >= SIMILAR]
    return LETTERS[near[0]] if len(near) == 1 else ""

"""Which option of a multiple-choice question an answer names: by its letter, or by its text."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from megatron_eureka.evaluate.answers import folded
from megatron_eureka.rewards.choices import FIGURE, named_choices
from megatron_eureka.rewards.notation import plain, to_latex
from megatron_eureka.rewards.quantities import parse_quantity, same_quantity

LETTERS = "ABCDEFGHIJ"
SIMILAR = 0.85  # of difflib: a typing error in a word of seven letters
MAX_SIMILAR_CHARS = 200  # difflib is quadratic
# In longer texts letters are points of figures, and words and numbers those of the reasoning.
MAX_BARE_CHARS, MAX_CONTAINING_CHARS = 60, 200

# ASCII boundaries: a letter may stand right beside a Chinese word.
_LETTER = r"(?<![A-Za-z0-9_'\\])([A-J])(?![A-Za-z0-9_'])"
_EDGE = r"[^\w∠△⊙°]{0,4}"
_LONE = re.compile(rf"{_EDGE}([A-Ja-j]){_EDGE}")
_LED = re.compile(rf"{_EDGE}\(?([A-J])(?:\)|[.:)]|\s-|,?\s(?=since\b|because\b))\s*(?=\S)")
_NAMED = re.compile(
    r"\b(?i:option|choice|answer)\b(?:\s(?:is|are))?[\s:(]{0,4}([A-Ja-j])(?![A-Za-z0-9_']|\s+[A-Za-z])"
    rf"|(?:(?<!不)选[择项]?|答案[是为]?)[\s:(]{{0,4}}{_LETTER}"
    rf"|{_LETTER}\s?选?项(?!错|不|有误|是错)"
)
_MARKED = re.compile(r"\(([A-J])\)")
_INNER_SPACE = re.compile(r"(?<=[(\[{,=<>^_])\s+|\s+(?=[)\]},=<>^_])|(?<=\d)\s+(?=\\)|(?<=[a-z])\s+(?=\{)")


def chosen_letter(answer: str, choices: Sequence[str]) -> str | None:
    """The letter of the option that an answer names; "" for several or one that does not exist, None for none at all.

    In this order: a letter alone or in front ("B", "(B)", "B. 12 cm"); the text of exactly one option; the number of
    exactly one option; letters named as options, when all are the same; the one option whose text occurs in the
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
    letters = letters_in(answer, bare=len(answer) <= MAX_BARE_CHARS) & set(allowed)
    if letters:
        return letters.pop() if len(letters) == 1 else ""
    found = _contained(answer, choices)
    return _similar(answer, choices) if found is None else found


def letters_in(text: str, bare: bool) -> set[str]:
    """The letters that a text names as options, without those that name a part of a figure.

    Args:
        bare: letters count that stand there as words, where none is named as an option or stands in brackets.
    """
    text = FIGURE.sub(" ", text)
    for pattern in (_NAMED, _MARKED):
        letters = {letter.upper() for found in pattern.finditer(text) for letter in found.groups() if letter}
        if letters:
            return letters
    return named_choices(text) if bare else set()


def _allowed(letter: str, allowed: str) -> str:
    return letter if letter in allowed else ""


def _same_text(answer: str, choices: Sequence[str]) -> str:
    for form in (folded, _formula):
        same = [form(choice) == form(answer) for choice in choices]
        if sum(same) == 1:
            return LETTERS[same.index(True)]
        if any(same):
            return ""
    number = parse_quantity(answer)
    golds = [parse_quantity(choice) for choice in choices]
    if number is None:
        return ""
    equal = [gold is not None and same_quantity(number, gold, "", 0.0) for gold in golds]
    return LETTERS[equal.index(True)] if sum(equal) == 1 else ""


def _formula(text: str) -> str:
    """Without white space, which means nothing in a formula."""
    return "".join(to_latex(plain(text)).casefold().split())


def _contained(answer: str, choices: Sequence[str]) -> str | None:
    """The option whose text stands in the answer as whole words; an option that is part of another one yields to it."""
    if len(answer) > MAX_CONTAINING_CHARS:
        return None
    text = _tidy(answer)
    inside = [
        (choice, LETTERS[number])
        for number, choice in enumerate(map(_tidy, choices))
        if choice and re.search(rf"(?<![\w^/\\-])(?<!\d[.,:]){re.escape(choice)}(?![\w^/]|[.,:]\d)", text)
    ]
    longest = [entry for entry in inside if not any(entry[0] != c and entry[0] in c for c, _ in inside)]
    if not longest:
        return None
    return longest[0][1] if len(longest) == 1 else ""


def _tidy(text: str) -> str:
    """For looking for words: as `folded`, and one notation for what a formula may be written with or without."""
    return _INNER_SPACE.sub("", to_latex(folded(text)))


def _similar(answer: str, choices: Sequence[str]) -> str | None:
    text = folded(answer)[:MAX_SIMILAR_CHARS]
    # A figure more or less is another number, not a typing error.
    if not text or any(sign.isdigit() for sign in text):
        return None
    ratios = [difflib.SequenceMatcher(None, text, folded(choice)[:MAX_SIMILAR_CHARS]).ratio() for choice in choices]
    near = [number for number, ratio in enumerate(ratios) if ratio >= SIMILAR]
    return LETTERS[near[0]] if len(near) == 1 else None

"""Choice letters, A to J: which options does a text name?"""

from __future__ import annotations

import re

from megatron_eureka.rewards.notation import boxed

TEXT_COMMAND = re.compile(r"\\(?:text|textbf|mathrm|mathbf|boxed|fbox)\s*\{([^{}]*)\}")

_DECORATION = r"[\s$*()\[\].:,]*"
_LONE_CHOICE = re.compile(rf"{_DECORATION}([A-Ja-j]){_DECORATION}")
_SEVERAL = re.compile(r"[A-J](?:(?:\s*,\s*(?:and\s+)?|\s+and\s+|\s+)[A-J])+")
_RUN = re.compile(r"[A-J]{2,}")
# ASCII boundaries, for a letter may stand right behind a Chinese word.
_NO_WORD_BEFORE, _NO_WORD_AFTER = r"(?<![A-Za-z0-9_'\\])", r"(?![A-Za-z0-9_'])"
# A letter as an option: a word of its own, not a unit behind a number. A and I are English words too, so these two
# count only where they are marked as options.
_MARKED_CHOICE = re.compile(
    r"\(([A-J])\)"  # (B)
    r"|(?:^|(?<=[\s$*])(?<!\d\s))([A-J])(?=\s*(?:[.:),*$]|$))"  # B. or B: or a last B
    r"|(?i:option|choice|answer(?: is)?:?)\s*\(?([A-J])\b"  # option B
    rf"|{_NO_WORD_BEFORE}([A-J])(?=\s*(?:&|and\b)\s*\(?[A-J]{_NO_WORD_AFTER})"  # A and B
    rf"|(?<=[\u3400-\u9fff])\s*([A-J]){_NO_WORD_AFTER}"  # the letter behind a Chinese word
    rf"|{_NO_WORD_BEFORE}([A-J])\s?选?项(?!错|不|有误|是错)"
)
_WORD_CHOICE = re.compile(rf"{_NO_WORD_BEFORE}(?<!\d\s)([B-HJ]){_NO_WORD_AFTER}")
_UNDECIDED = re.compile(rf"{_NO_WORD_BEFORE}[A-J]\)?\s*(?:/|\bor\b)\s*\(?[A-J]{_NO_WORD_AFTER}")
_DENIED = re.compile(rf"\b(?i:not|neither|nor)\s+\(?[A-J]{_NO_WORD_AFTER}")
_LETTER = rf"{_NO_WORD_BEFORE}([A-J]){_NO_WORD_AFTER}"
# Letters that name a point, an angle or a variable of the figure, degrees Celsius, or what is denied: no options.
FIGURE = re.compile(
    rf"(?:[∠△⊙点角圆]|线段|直线|三角形|\\(?:angle|triangle|odot)\b|\b(?i:(?:angle|point|triangle|side|segment|line|circle"
    rf"|ray|arc|chord|radius|center|centre|square|rectangle|plane)s?|vertex|vertices|of|at|through|from)\b)\s*{_LETTER}"
    rf"(?:(?:\s*,\s*|\s+(?:and|to)\s+|[和、]){_LETTER}){{0,4}}"
    rf"|不[能应]?[选是]\s*{_LETTER}"
    rf"|{_LETTER}\s*(?:[=<>≈≤≥]|\s(?:is|equals|measures)\s+[$-]?\d|\\(?:approx|leq?|geq?)\b)"
    rf"|(?<=\S)[^\S\n]*{_LETTER}\s+\d"
    rf"|{_LETTER}\s*\(\s*-?\d[^()\n]{{0,20}},"
    rf"|(?:°|\\circ\}}?)\s*[CF](?![A-Za-z])"
)


def label_choices(label: str) -> set[str]:
    """The letters of a label that is nothing but choices: `B`, `(b)`, `A, C`; empty for any other."""
    text = TEXT_COMMAND.sub(r"\1", label)
    lone = _LONE_CHOICE.fullmatch(text)
    if lone:
        return {lone.group(1).upper()}
    return set(re.findall("[A-J]", text)) if _SEVERAL.fullmatch(text.strip(" $.")) else set()


def label_run(label: str) -> set[str]:
    """The letters of a label such as `ACD`, options in their order or the name of a figure; empty for any other."""
    text = TEXT_COMMAND.sub(r"\1", label).strip(" $.")
    return set(text) if _RUN.fullmatch(text) and list(text) == sorted(set(text)) else set()


def named_choices(answer: str) -> set[str]:
    """The option letters that an answer names, none for `A or B`; in a box, only those in the last one."""
    text = TEXT_COMMAND.sub(r"\1", [answer, *boxed(answer)][-1])
    lone = _LONE_CHOICE.fullmatch(text)
    if lone:
        return {lone.group(1).upper()}
    if _UNDECIDED.search(text):
        return set()
    text = FIGURE.sub(" ", _DENIED.sub(" ", text))
    marked = {letter for found in _MARKED_CHOICE.finditer(text) for letter in found.groups() if letter}
    return marked | set(_WORD_CHOICE.findall(text))

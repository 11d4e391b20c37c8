"""Options of multiple-choice questions, A to J: which does an answer name, by letter or by text?"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from megatron_eureka.answers.notation import bare, boxed, normal
from megatron_eureka.answers.quantities import parse_quantity, same_quantity
from megatron_eureka.answers.words import folded

LETTERS = "ABCDEFGHIJ"
SIMILAR = 0.85  # of difflib: a typing error in a word of seven letters
MAX_SIMILAR_CHARS = 200  # difflib is quadratic
# In longer texts letters are points of figures, and words and numbers those of the reasoning.
MAX_BARE_CHARS, MAX_CONTAINING_CHARS = 60, 200

_DECORATION = r"[\s$*()\[\]{}.:,]*"
_LONE = re.compile(rf"{_DECORATION}([A-Ja-j]){_DECORATION}")
_SEVERAL = re.compile(r"[A-J](?:(?:\s*,\s*(?:and\s+)?|\s+and\s+|\s+)[A-J])+")
_RUN = re.compile(r"[A-J]{2,}")
# ASCII boundaries, for a letter may stand right beside a Chinese word.
_BEFORE, _AFTER = r"(?<![A-Za-z0-9_'\\])", r"(?![A-Za-z0-9_'])"
_LETTER = rf"{_BEFORE}([A-J]){_AFTER}"
_LED = re.compile(r"\W{0,4}\(?([A-J])(?:\)|[.:)]|\s-|,?\s(?=since\b|because\b))\s*(?=\S)")
# In this order: letters that are called options, letters in brackets, and others that can be no words: A and I are
# English words too, so these two count only where a mark makes them options.
_CALLED = re.compile(
    rf"\b(?i:option|choice|answer)\b(?:\s(?i:is|are))?:?[\s(]{{0,4}}([A-Ja-j])(?![A-Za-z0-9_']|\s+[A-Za-z])"
    rf"|(?:(?<!不)选[择项]?|答案[是为]?)[\s:(]{{0,4}}{_LETTER}"
    rf"|{_LETTER}\s*选?项(?!错|不|有误|是错)"
)
_BRACKETED = re.compile(r"\(([A-J])\)")
_STANDING = re.compile(
    r"(?:^|(?<=[\s$*])(?<!\d\s))([A-J])(?=\s*(?:[.:),*$]|$))"  # B. or B: or a last B
    rf"|{_BEFORE}([A-J])(?=\s*(?:&|and\b)\s*\(?[A-J]{_AFTER})"  # A and B
    rf"|(?<=[\u3400-\u9fff])\s*([A-J]){_AFTER}"  # behind a Chinese word
    rf"|{_BEFORE}(?<!\d\s)([B-HJ]){_AFTER}"
)
_UNDECIDED = re.compile(rf"{_BEFORE}[A-J]\)?\s*(?:/|\bor\b)\s*\(?[A-J]{_AFTER}")
_DENIED = re.compile(rf"\b(?i:not|neither|nor)\s+\(?[A-J]{_AFTER}")
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
_INNER_SPACE = re.compile(r"(?<=[(\[{,=<>^_])\s+|\s+(?=[)\]},=<>^_])|(?<=\d)\s+(?=\\)|(?<=[a-z])\s+(?=\{)")


def gold_letters(gold: str) -> set[str]:
    """The letters of a gold that is nothing but choices: `B`, `(b)`, `A, C`; empty for any other."""
    lone = _LONE.fullmatch(gold)
    if lone:
        return {lone.group(1).upper()}
    return set(re.findall("[A-J]", gold)) if _SEVERAL.fullmatch(gold.strip(" $.")) else set()


def gold_run(gold: str) -> set[str]:
    """The letters of a gold such as `ACD`, options in their order or the name of a figure; empty for any other."""
    text = gold.strip(" $.")
    return set(text) if _RUN.fullmatch(text) and list(text) == sorted(set(text)) else set()


def named_letters(text: str, standing: bool = True) -> set[str]:
    """The letters that a normal form names as options, none for `A or B`; of one with boxes the last box counts.

    Args:
        standing: letters count that stand there as words, where none is called an option or stands in brackets.
    """
    text = [text, *boxed(text)][-1]
    lone = _LONE.fullmatch(text)
    if lone:
        return {lone.group(1).upper()}
    if _UNDECIDED.search(text):
        return set()
    text = FIGURE.sub(" ", _DENIED.sub(" ", text))
    for pattern in (_CALLED, _BRACKETED, _STANDING)[: 3 if standing else 2]:
        letters = {letter.upper() for found in pattern.finditer(text) for letter in found.groups() if letter}
        if letters:
            return letters
    return set()


def chosen_letter(answer: str, choices: Sequence[str]) -> str | None:
    """The letter of the option that an answer names; "" for several or one that does not exist, None for none at all.

    In this order: a letter alone or in front ("B", "(B)", "B. 12 cm"); the text of exactly one option; the number of
    exactly one option; letters named as options, when all are the same; the one option whose text occurs in the
    answer; the one option of very similar text.

    Args:
        answer: a normal form.
        choices: texts of the options as the question has them; empty if they are not known.
    """
    answer, choices = bare(answer), [bare(normal(choice)) for choice in choices]
    allowed = LETTERS[: len(choices)] if choices else LETTERS
    found = _LONE.fullmatch(answer) or _LED.match(answer)
    if found:
        letter = found.group(1).upper()
        if not {letter}.issuperset(_BRACKETED.findall(answer)):  # (A), (B) and (C)
            return ""
        return letter if letter in allowed else ""
    by_text = _same_text(answer, choices)
    if by_text:
        return by_text
    letters = named_letters(answer, standing=len(answer) <= MAX_BARE_CHARS) & set(allowed)
    if letters:
        return letters.pop() if len(letters) == 1 else ""
    contained = _contained(answer, choices)
    return _similar(answer, choices) if contained is None else contained


def _same_text(answer: str, choices: Sequence[str]) -> str:
    for form in (folded, _squeezed):
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


def _squeezed(text: str) -> str:
    """Without white space, which means nothing in a formula."""
    return "".join(text.casefold().split())


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
    return _INNER_SPACE.sub("", folded(text))


def _similar(answer: str, choices: Sequence[str]) -> str | None:
    text = folded(answer)[:MAX_SIMILAR_CHARS]
    # A figure more or less is another number, not a typing error.
    if not text or any(sign.isdigit() for sign in text):
        return None
    ratios = [difflib.SequenceMatcher(None, text, folded(choice)[:MAX_SIMILAR_CHARS]).ratio() for choice in choices]
    near = [number for number, ratio in enumerate(ratios) if ratio >= SIMILAR]
    return LETTERS[near[0]] if len(near) == 1 else None

"""Answers of several parts: lists, blanks to be filled in, numbers of right statements; where one part ends."""

from __future__ import annotations

import re
from collections.abc import Sequence

from megatron_eureka.answers.notation import bare
from megatron_eureka.answers.words import one_box, tail

MAX_PARTS = 32  # of one text; beyond, it is no list of answers
MAX_LIST_CHARS = 4_000  # of which such a list may consist
_END = re.compile(r";|\n")
_AND = re.compile(r"\s(?:and|or)\s|;|\n")
_NUMBERED = re.compile(r"(?:^|(?<=[\s,;.$]))\(\d\)\s*(?=\S)")
_FORMULAS = re.compile(r"\$([^$]*)\$")
_BETWEEN = re.compile(r"[\s,;.]*(?:\band\b)?[\s,;.]*")
_PLAIN = re.compile(r"-?\d+(?:\.\d+)?(?: -?\d+(?:\.\d+)?)+")
_CIRCLED = re.compile(r"[\u2460-\u2468]")
_STATEMENTS = re.compile(r"(?:\(\d\)[\s,;.]*(?:and)?\s*){2,}|(?:\d\.){2,}|(?:[\u2460-\u2468][\s,;]*(?:and)?\s*)+\.?")
_DIGITS = re.compile(r"\(?\d\)?(?:\s*[,;.]?\s*(?:and)?\s*\(?\d\)?)*\.?")


def statement_numbers(text: str, as_gold: bool = False) -> frozenset[int] | None:
    """The numbers of a text that is nothing but numbers of statements: (1)(3), 1.3.4. or ①③; None for any other.

    Args:
        as_gold: it has to look like that by itself; in an answer, 1, 3 and 4 will do.
    """
    text = bare(text) + ("." if as_gold and text.rstrip(" $").endswith(".") else "")
    if not (_STATEMENTS.fullmatch(text) or (not as_gold and len(text) < 80 and _DIGITS.fullmatch(text))):
        return None
    circled = {ord(sign) - 0x245F for sign in _CIRCLED.findall(text)}
    return frozenset(circled | {int(digit) for digit in re.findall(r"[1-9]", text)})


def blanks(gold: str) -> tuple[str, ...]:
    """The parts of a gold that fills several blanks, in their order; () for a gold of one part, and for a set.

    Such are formulas with nothing but spaces between them, lines, and plain numbers with spaces between them.
    """
    if len(gold) > MAX_LIST_CHARS:
        return ()
    if len(_NUMBERED.findall(gold)) > 1:
        head, *parts = _NUMBERED.split(gold)
        if not head.strip():
            return tuple(bare(one) for part in parts for one in (blanks(part) or split_answers(part)))
    formulas = [part.strip() for part in _FORMULAS.findall(gold) if part.strip(" .,;")]
    if len(formulas) > 1 and _BETWEEN.fullmatch(_FORMULAS.sub("", gold)):
        return tuple(formulas) if not _is_set(gold) else ()
    lines = [bare(line) for line in _END.split(gold) if bare(line)]
    if len(lines) == 1 and _PLAIN.fullmatch(lines[0]):
        return tuple(lines[0].split())
    return tuple(lines) if 1 < len(lines) <= MAX_PARTS and "\\begin" not in gold else ()


def _is_set(text: str) -> bool:
    """Formulas with commas between all of them: solutions, in any order."""
    return not re.search(r"\$[\s.]*\$", _FORMULAS.sub("$$", text).replace(" ", ""))


def split_answers(text: str, ends: re.Pattern = _AND) -> tuple[str, ...]:
    """Several answers of one text: cut at commas outside brackets, at `and`, `or`, `;` and line ends; +- counts twice.

    A text of more than MAX_PARTS parts is one answer.
    """
    if len(text) > MAX_LIST_CHARS:
        return (text.strip(),)
    text = ends.sub(",", text.replace("$", " "))
    parts, depth, start = [], 0, 0
    for place, sign in enumerate(text):
        if sign in "([{":
            depth += 1
        elif sign in ")]}":
            depth = max(0, depth - 1)
        elif sign == "," and not depth and not re.match(r"(?<=\d),\d{3}(?!\d)", text[place - 1 : place + 5]):
            parts.append(text[start:place])
            start = place + 1
    parts = [part.strip() for part in [*parts, text[start:]] if part.strip()]
    if len(parts) > MAX_PARTS:
        return (text.strip(),)
    return tuple(signed for part in parts for signed in _both_signs(part))


def answer_parts(answer: str, number: int) -> tuple[str, ...]:
    """An answer as so many parts: all of it, or what its sentence says; () where it has another number of parts."""
    for text in (one_box(answer) or answer, tail(answer)):
        text = _NUMBERED.sub(",", text) if len(_NUMBERED.findall(text)) > 1 else text
        parts = split_answers(_unbraced(text))
        deeper = tuple(one for part in parts for one in (blanks(part) or (part,)))
        for found in (parts, deeper, split_answers(_unbraced(text), _END), blanks(text)):
            if len(found) == number:
                return found
    return ()


def one_to_one(equal: Sequence[Sequence[bool]]) -> bool:
    """Whether every answer can be given a gold of its own that it equals.

    Args:
        equal: [answers][golds], square. Augmenting paths: tolerances may let an answer equal two golds.
    """
    owner: dict[int, int] = {}  # gold -> answer

    def place(answer: int, seen: set[int]) -> bool:
        for gold, same in enumerate(equal[answer]):
            if same and gold not in seen:
                seen.add(gold)
                if gold not in owner or place(owner[gold], seen):
                    owner[gold] = answer
                    return True
        return False

    return all(place(answer, set()) for answer in range(len(equal)))


def _both_signs(part: str) -> tuple[str, ...]:
    before, sign, after = part.partition("\\pm")
    if not sign or "\\pm" in after:
        return (part,)
    return (f"{before}+{after}", f"{before}-{after}") if before else (after.strip(), f"-{after.strip()}")


def _unbraced(text: str) -> str:
    """A list of answers without the braces around all of it."""
    inner = bare(text).replace("\\{", "{").replace("\\}", "}")
    return inner[1:-1] if inner[:1] == "{" and inner[-1:] == "}" and "{" not in inner[1:] else text

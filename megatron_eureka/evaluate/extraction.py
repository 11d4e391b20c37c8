"""From a response to the answer that it gives, by rule; linear in the response's length."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from megatron_eureka.evaluate.choices import letters_in
from megatron_eureka.rewards.choices import FIGURE
from megatron_eureka.rewards.notation import boxed, plain, plain_forms

MAX_CHARS = 2000  # of an answer; what is longer is a text, and its end counts

_PHRASE = re.compile(
    r"\b(?:answer|result|option|choice)\b[*\s]{0,4}(?:(?:is|should be|would be|are|equals)\b|[:=：])[*\s]{0,4}[:：]?"
    r"|答案(?:是|为|：|:)|(?<![不未])选择?[\s:：]{0,3}(?=[(（]?(?-i:[A-J])(?![A-Za-z0-9]))",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"\.(?=\s|$)|[。\n]")
MAX_SHORT_LINE = 31  # without a mark a letter may be a point of a figure; in a short last line it is an answer
_OPTION = re.compile(r"\(([A-J])\)|(?<![\w'])([A-J])(?=\s{0,4}[.):](?:\s|$))|([A-J])(?=\s?选?项(?!错|不|有误|是错))")
_NUMBER = re.compile(r"(?<![\w.])[-−]?\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d{1,4})?\s?%?")
# As sentences have it: negative 3, 12 345, 4 out of 8.
_SAID = re.compile(
    r"(?<![\w.])(?:(?i:negative|minus) )?[-−]?(?:\d{1,3}(?: \d{3})+(?![\d.,]*\d)"
    r"|\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d{1,4})?(?:\s?%)?)(?: out of (?:the |all )?\d+)?"
)
_LIST = re.compile(r"\[[^\[\]]{0,400}\]")
_MATHS = re.compile(r"\$([^$]{1,400})\$")
# A word that is no function, or a Chinese character: behind the last one may stand a formula without dollar signs.
_PROSE = re.compile(
    r"(?<![\\A-Za-z])(?!(?:sin|cos|tan|cot|log|ln|exp|sqrt|pi)\b)[A-Za-z]{2,}(?![A-Za-z])|[\u3400-\u9fff]"
)
_BULLET = re.compile(r"\A(?:(?:[-*•]|\(?[a-z0-9]\)|[a-z0-9][.:)])\s+|[=≈]\s*)")
_REMARK = re.compile(r"\s\([^()]*[A-Za-z]{3}[^()]*\)[\s.]*$")
_OPERATOR = re.compile(r"[-−+*/^:=<>≤≥≠±√(\[{\\]")
MAX_FORMULA_LINE = 200


@dataclass(frozen=True)
class Candidate:
    """What counts as the answer."""

    text: str  # "" if the response has none
    how: str  # "tag", "boxed", "phrase", "option", "list", "number", "formula", "line" or "none"


def extract(response: str, kind: str) -> Candidate:
    """The answer of a response.

    The last `<answer>` counts, else what follows the last `</think>`, else everything. In it: the last `\\boxed`, the
    words after the last "answer is"; without tags, then, what a question of this kind asks for: the last marked
    option, list, number or formula, or the last line. A thought that was cut off has no answer in these.

    Args:
        kind: of the question, see `item.KINDS`.
    """
    tagged = _tagged(response)
    text = response.rpartition("</think>")[2] if tagged is None else tagged
    several = kind in ("answers", "list")
    boxes = boxed(text)
    if boxes:
        return Candidate(_clip(", ".join(dict.fromkeys(boxes)) if several else boxes[-1]), "boxed")
    if tagged is not None and not _PHRASE.search(tagged):
        return Candidate(_clip(tagged), "tag")
    phrase = _after_phrase(text)
    if phrase:
        return Candidate(_clip(phrase), "phrase")
    if tagged is None and "<think>" in response and "</think>" not in response:
        return Candidate("", "none")
    return _by_kind(text[-MAX_CHARS:], kind)


def _tagged(response: str) -> str | None:
    end = response.rfind("</answer>")
    start = response.rfind("<answer>", 0, end) if end >= 0 else response.rfind("<answer>")
    if start < 0:
        return None
    content = response[start + len("<answer>") : end if end >= 0 else len(response)].strip()
    return content or None


def _after_phrase(text: str) -> str:
    ends = [found.end() for found in _PHRASE.finditer(text)]
    if not ends:
        return ""
    rest = text[ends[-1] : ends[-1] + MAX_CHARS].lstrip(" *:\n")
    end = _SENTENCE_END.search(rest)
    return rest[: end.start()].strip() if end else rest.strip()


def _by_kind(text: str, kind: str) -> Candidate:
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not lines:
        return Candidate("", "none")
    said = [("number", _last(_SAID))]
    found = {"choice": [("option", _option)], "integer": said, "float": said, "list": [("list", _last(_LIST))]}
    found["math"] = [("formula", _formula), ("formula", _last(_MATHS)), ("number", _last(_NUMBER))]
    for how, find in found.get(kind, []):
        answer = find(text, lines[-1])
        if answer:
            return Candidate(answer, how)
    return Candidate(_clip(lines[-1]), "line")


def _last(pattern: re.Pattern) -> Callable[[str, str], str]:
    """Finds the last match of a pattern: its group if it has one, else all of it."""

    def find(text: str, _: str = "") -> str:
        matches = list(pattern.finditer(text))
        groups = [group for group in (matches[-1].group(0), *matches[-1].groups()) if group] if matches else [""]
        return groups[-1].strip()

    return find


def _option(text: str, line: str) -> str:
    """The letter of a short last line, else the last one that is marked as an option."""
    letters = letters_in(plain(line), bare=True) if len(line) <= MAX_SHORT_LINE else set()
    return (
        letters.pop()
        if len(letters) == 1 and letters <= set(line)
        else _last(_OPTION)(FIGURE.sub(" ", plain_forms(text)))
    )


def _formula(_: str, line: str) -> str:
    """A last line's formula; "" where it ends in words, or in a number alone."""
    if len(line) > MAX_FORMULA_LINE:
        return ""
    line = _REMARK.sub("", line)
    if _MATHS.search(line):
        return _last(_MATHS)(line)
    words = [0, *(found.end() for found in _PROSE.finditer(line))]
    rest = _BULLET.sub("", line[words[-1] :].strip(" .,:;*。")).strip()
    result = rest.rpartition("=")[2].strip()
    if "=" in rest and "," not in rest and _NUMBER.fullmatch(result):
        return result
    closed = sum(map(rest.count, "([{")) == sum(map(rest.count, ")]}"))
    return rest if closed and _OPERATOR.search(rest.lstrip("-−+")) else ""


def _clip(text: str) -> str:
    return text.strip()[-MAX_CHARS:]

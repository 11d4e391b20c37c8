"""From a response to the answer that it gives, by rule; linear in the response's length."""

from __future__ import annotations

import re
from collections.abc import Callable

from megatron_eureka.answers.choices import FIGURE, named_letters
from megatron_eureka.answers.notation import bare, boxed, normal
from megatron_eureka.answers.question import Answer, Question

MAX_CHARS = 2000  # of an answer without tags; what is longer is a text, and its end counts
MAX_SHORT_LINE = 31  # without a mark a letter may be a point of a figure; in a short last line it is an answer
MAX_FORMULA_LINE = 200

_PHRASE = re.compile(
    r"\b(?:answer|result|option|choice)\b[*\s]{0,4}(?:(?:is|should be|would be|are|equals)\b|[:=：])[*\s]{0,4}[:：]?"
    r"|答案(?:是|为|：|:)|(?<![不未])选择?[\s:：]{0,3}(?=[(（]?(?-i:[A-J])(?![A-Za-z0-9]))",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"\.(?=\s|$)|[。\n]")
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


def read(response: str, question: Question) -> Answer:
    """The answer of a response.

    The last complete `<answer>` behind the thought counts, else what follows the last `</think>`, if anything does.
    There: a `\\boxed`, the words after the last "answer is"; without tags, then, what a question of this kind asks
    for: the last marked option, list, number or formula, or the last line. A thought that was cut off has no answer.
    """
    before, closed, text = response.rpartition("</think>")
    behind = response.partition("</think>")[2] if closed else response
    if "</answer>" in behind:  # garbage may follow it, of which a last </think> is part
        text = behind
    elif not text.strip():
        text = before
    tagged = _tagged(text)
    if tagged is None and not closed and "<think>" in response:
        return Answer("", "none", question.kind)
    text, how = _found(text if tagged is None else tagged, question, tagged is not None)
    return Answer(text, how, question.kind)


def _found(text: str, question: Question, tagged: bool) -> tuple[str, str]:
    boxes = boxed(text)
    if boxes:
        several = tagged or question.kind in ("several", "list")
        return _clip(", ".join(dict.fromkeys(boxes)) if several else boxes[-1]), "boxed"
    phrase = _after_phrase(text)
    if phrase:
        return _clip(phrase), "phrase"
    return (text.strip(), "tag") if tagged else _by_kind(text[-MAX_CHARS:], question.kind)


def _tagged(text: str) -> str | None:
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, end) if end >= 0 else text.rfind("<answer>")
    if start < 0:
        return None
    content = text[start + len("<answer>") : end if end >= 0 else len(text)].strip()
    return content or None


def _after_phrase(text: str) -> str:
    ends = [found.end() for found in _PHRASE.finditer(text)]
    if not ends:
        return ""
    rest = text[ends[-1] : ends[-1] + MAX_CHARS].lstrip(" *:\n")
    end = _SENTENCE_END.search(rest)
    return rest[: end.start()].strip() if end else rest.strip()


def _by_kind(text: str, kind: str) -> tuple[str, str]:
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not lines:
        return "", "none"
    said = [("number", _last(_SAID))]
    found = {"choice": [("option", _option)], "integer": said, "float": said, "list": [("list", _last(_LIST))]}
    found["free"] = [("formula", _formula), ("formula", _last(_MATHS)), ("number", _last(_NUMBER))]
    for how, find in found.get(kind, []):
        answer = find(text, lines[-1])
        if answer:
            return answer, how
    return _clip(lines[-1]), "line"


def _last(pattern: re.Pattern) -> Callable[[str, str], str]:
    """Finds the last match of a pattern: its group if it has one, else all of it."""

    def find(text: str, _: str = "") -> str:
        matches = list(pattern.finditer(text))
        groups = [group for group in (matches[-1].group(0), *matches[-1].groups()) if group] if matches else [""]
        return groups[-1].strip()

    return find


def _option(text: str, line: str) -> str:
    """The letter of a short last line, else the last one that is marked as an option."""
    letters = named_letters(bare(normal(line))) if len(line) <= MAX_SHORT_LINE else set()
    if len(letters) == 1 and letters <= set(line.upper()):
        return letters.pop()
    return _last(_OPTION)(FIGURE.sub(" ", normal(text)))


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

"""From a response to the answer that it gives, by rule; linear in the response's length."""

from __future__ import annotations

import re
from dataclasses import dataclass

from megatron_eureka.rewards.notation import boxed

MAX_CHARS = 2000  # of an answer; what is longer is a text, and its end counts

_PHRASE = re.compile(
    r"\b(?:answer|result|option|choice)\b[*\s]{0,4}(?:(?:is|should be|would be|are|equals)\b|[:=：])[*\s]{0,4}[:：]?"
    r"|答案(?:是|为|：|:)",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"\.(?=\s|$)|[。\n]")
# Without a mark a letter may be a point of a figure; alone in a short last line it is an answer.
_OPTION = re.compile(r"\(([A-J])\)|(?<![\w'])([A-J])(?=\s{0,4}[.):](?:\s|$))")
_SHORT_LINE = re.compile(r"(?:^|\n)[^\n]{0,20}(?<![\w'])([B-HJ])(?![\w'])[^\n]{0,10}\s*\Z")
_NUMBER = re.compile(r"(?<![\w.])[-−]?\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d{1,4})?\s?%?")
_LIST = re.compile(r"\[[^\[\]]{0,400}\]")
_MATHS = re.compile(r"\$([^$]{1,400})\$")


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
    searches = {
        "choice": [("option", _SHORT_LINE), ("option", _OPTION)],
        "integer": [("number", _NUMBER)],
        "float": [("number", _NUMBER)],
        "list": [("list", _LIST)],
        "math": [("formula", _MATHS), ("number", _NUMBER)],
    }
    for how, pattern in searches.get(kind, []):
        matches = list(pattern.finditer(text))
        if matches:
            groups = [group for group in matches[-1].groups() if group]
            return Candidate((groups[-1] if groups else matches[-1].group(0)).strip(), how)
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return Candidate(_clip(lines[-1]), "line") if lines else Candidate("", "none")


def _clip(text: str) -> str:
    return text.strip()[-MAX_CHARS:]

"""Answers that are words or signs rather than numbers and formulas: when are two of them the same text?"""

from __future__ import annotations

import re

from megatron_eureka.rewards.choices import TEXT_COMMAND
from megatron_eureka.rewards.notation import DELIMITERS, boxed, latex_signs

# Words that are mathematics.
FUNCTIONS = frozenset(["sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "max", "min", "sqrt"])

# What stands behind the last of these is the result of a sentence.
_LEAD = re.compile(r".*(?:\b(?:is|are|equals?)\b:?|(?<!不)[是为]|(?<=[^\W\d]):)(.*)", re.DOTALL | re.IGNORECASE)
_ARTICLE = re.compile(r"(?:a|an|the)\s+")
_OPPOSITE = {
    word: re.compile(rf"\b{opposite}\b")
    for word, opposite in (("yes", "no"), ("no", "yes"), ("true", "false"), ("false", "true"))
}
_CJK_SPACE = re.compile(r"(?<=[\u3400-\u9fff])\s+|\s+(?=[\u3400-\u9fff])|(?<=,)\s+|\s+(?=,)")
_SPACE = re.compile(r"(?<!\d)\s+|\s+(?!\d)")  # 1 2 is not 12
_CIRCLED = re.compile(r"[\u2460-\u2473]")
_CIRCLED_RUN = re.compile(r"(?:[\u2460-\u2473][\s,;]*(?:and)?\s*)+")


def same_text(candidate: str, label: str) -> bool:
    """Whether an answer is the label's text, or a sentence that ends with the label's words."""
    answer, gold = normalise(one_box(candidate) or candidate), normalise(label)
    if not answer or answer == gold or _squeezed(candidate) == _squeezed(label):
        return bool(answer)
    if gold in _OPPOSITE and answer.startswith((f"{gold},", f"{gold}.", f"{gold}:", f"{gold};")):
        return not _OPPOSITE[gold].search(answer)
    if _CIRCLED_RUN.fullmatch(gold):
        named = next((text for text in (answer, tail(answer)) if _CIRCLED_RUN.fullmatch(text)), "")
        return set(_CIRCLED.findall(named)) == set(_CIRCLED.findall(gold))
    return is_words(label) and _without_article(gold) in (_without_article(answer), _without_article(tail(answer)))


def is_words(label: str) -> bool:
    """Whether the label is language: math-verify would read `yes` as the product of three variables."""
    if re.search(r"[^\w\s'.,-]|[\d_]", label):
        return False
    return any(len(word) > 2 and word.lower() not in FUNCTIONS for word in re.findall(r"\w+", label))


def tail(text: str) -> str:
    """What a sentence says that something is; empty where it does not."""
    found = _LEAD.match(text)
    return found.group(1).strip() if found else ""


def one_box(text: str) -> str:
    """The content of the only box; empty where there is none, or several."""
    boxes = boxed(text)
    return boxes[0] if len(boxes) == 1 else ""


def normalise(text: str) -> str:
    """The text in lower case, without LaTeX's words for text, bold marks, a final stop and spaces beside Chinese."""
    text = TEXT_COMMAND.sub(r"\1", text).replace("$", " ")
    return _CJK_SPACE.sub("", " ".join(text.replace("**", "").split())).rstrip(" .,;:").casefold()


def _squeezed(text: str) -> str:
    """Signs such as those of △ABC ≅ △DEF as commands and without spaces; upper case is told from lower case."""
    return _SPACE.sub("", latex_signs(DELIMITERS.sub(" ", TEXT_COMMAND.sub(r"\1", text)))).rstrip(".,;:")


def _without_article(text: str) -> str:
    return _ARTICLE.sub("", text, count=1)

"""Answers that are words or signs rather than numbers and formulas: when are two of them the same text?"""

from __future__ import annotations

import re

from megatron_eureka.answers.notation import bare, boxed

MAX_SENTENCE_CHARS = 200  # in longer ones "3 or 5" may stand anywhere on the way to the result
# Words that are mathematics.
FUNCTIONS = frozenset(["sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "max", "min", "sqrt"])

# What stands behind the last of these is the result of a sentence.
_LEAD = re.compile(r".*(?:\b(?:is|are|equals?)\b:?|(?<!不)[是为]|(?<=[^\W\d]):)(.*)", re.DOTALL | re.IGNORECASE)
_ARTICLE = re.compile(r"(?:a|an|the)\s+(?=\S{2})")
_OPPOSITE = {
    word: re.compile(rf"\b{opposite}\b")
    for word, opposite in (("yes", "no"), ("no", "yes"), ("true", "false"), ("false", "true"))
}
# What math-verify does not know, or takes for something else: compared as text alone.
TEXT_ONLY = re.compile(r"\\(?:perp|parallel|cong|sim|triangle|angle|odot|forall|exists|ldots)(?![A-Za-z])")
# The number that a parser would find is denied, or one of two: 5, or perhaps 6. No words of it start a conclusion.
_DENIED = re.compile(r"\b(?:not|between)\s+\S{0,3}\d", re.IGNORECASE)
_BOUND = re.compile(  # of the last number: at least 3
    r"(?:\b(?:at (?:least|most)|(?:more|less|fewer|greater|larger|smaller) than)\s"
    r"|大于|小于|至少|至多|超过|不足|多于|少于|不到|不是|不等于)\s*\S{0,3}\d[\d.,/]*\D*$",
    re.IGNORECASE,
)
_HEDGE = re.compile(
    r"\d\S{0,20}(?:\s+[^\W\d]{1,15}){0,2}\s+[(\[]?or\b,?(?!\s+(?:more|less|fewer|greater|larger|smaller|equivalently)\b)"
    r"(?:\s+(?!(?:so|hence|thus|therefore)\b)[^\s\d.:;!?]{1,15}){0,5}\s+\S{0,3}\d",
    re.IGNORECASE,
)
_CJK_SPACE = re.compile(r"(?<=[\u3400-\u9fff])\s+|\s+(?=[\u3400-\u9fff])|(?<=,)\s+|\s+(?=,)")
_SPACE = re.compile(r"(?<!\d)\s+|\s+(?!\d)")  # 1 2 is not 12


def same_text(answer: str, gold: str) -> bool:
    """Whether an answer is the gold's text, or a sentence that ends with the gold's words; of normal forms."""
    said, wanted = folded(one_box(answer) or answer), folded(gold)
    if not said or said == wanted or squeezed(answer) == squeezed(gold):
        return bool(said)
    if wanted in _OPPOSITE and said.startswith((f"{wanted},", f"{wanted}.", f"{wanted}:", f"{wanted};")):
        return not _OPPOSITE[wanted].search(said)
    return is_words(gold) and wanted == folded(tail(said))


def is_words(gold: str) -> bool:
    """Whether a gold is language: math-verify would read `yes` as the product of three variables."""
    if re.search(r"[^\w\s'.,-]|[\d_]", gold):
        return False
    return any(len(word) > 2 and word.lower() not in FUNCTIONS for word in re.findall(r"\w+", gold))


def tail(text: str) -> str:
    """What a sentence says that something is; empty where it does not."""
    found = _LEAD.match(text)
    return found.group(1).strip() if found else ""


def one_box(text: str) -> str:
    """The content of the only box; empty where there is none, or several."""
    boxes = boxed(text)
    return boxes[0] if len(boxes) == 1 else ""


def is_undecided(sentence: str) -> bool:
    """Whether a short sentence names two numbers, a bound, or says what the result is not."""
    patterns = (_HEDGE, _DENIED, _BOUND)
    return len(sentence) <= MAX_SENTENCE_CHARS and any(pattern.search(sentence) for pattern in patterns)


def folded(text: str) -> str:
    """For comparing words: in lower case, without quotes, a leading article and spaces beside Chinese."""
    text = _CJK_SPACE.sub("", bare(text)).casefold().strip("'\"`")
    return _ARTICLE.sub("", text, count=1) if _ARTICLE.match(text) else text


def squeezed(text: str) -> str:
    """Without spaces, which mean nothing beside signs; upper case is told from lower case."""
    return _SPACE.sub("", bare(text))

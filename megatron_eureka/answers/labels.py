"""Labels of training data: what question does one answer, and could any answer be verified against it?"""

from __future__ import annotations

import re

from megatron_eureka.answers.choices import gold_letters
from megatron_eureka.answers.compare import is_prose, normal_gold
from megatron_eureka.answers.exact import compare_numbers
from megatron_eureka.answers.notation import bare
from megatron_eureka.answers.question import Question
from megatron_eureka.answers.several import blanks, statement_numbers
from megatron_eureka.answers.words import TEXT_ONLY, is_words

_MATH_MARKS = re.compile(r"[\\{}^_$]")


def question_of(label: str) -> Question:
    """The question that a label answers, of which nothing else is known."""
    return Question("choice") if len(gold_letters(normal_gold(label))) == 1 else Question()


def check_label(label: str) -> str | None:
    """Why no answer could ever be verified against this label, or None if one could."""
    gold = normal_gold(label)
    if not bare(gold):
        return f"the label {label!r} is empty"
    for part in blanks(gold) or (gold,):
        if label_kind(part) == "text" and _MATH_MARKS.search(TEXT_ONLY.sub("", bare(part))):
            return f"math-verify cannot parse the label {label!r}; correct it, or write plain text without LaTeX"
    return None


def label_kind(label: str) -> str:
    """What sort of answer a label is: choice, statements, several, number, words, mathematics, or text that is compared
    as text."""
    gold = normal_gold(label)
    if gold_letters(gold):
        return "choice"
    if statement_numbers(gold, as_gold=True):
        return "statements"
    if blanks(gold):
        return "several"
    if compare_numbers(bare(gold), bare(gold)):
        return "number"
    if is_words(gold) or is_prose(gold):
        return "words"
    from megatron_eureka.answers.formulas import parse_gold  # loads sympy, for seconds

    return "mathematics" if any(not isinstance(item, str) for item in parse_gold(gold)) else "text"

"""Is an answer the gold? Comparers are tried in order; the first that has a verdict gives it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache

from megatron_eureka.answers import rounding
from megatron_eureka.answers.choices import (
    LETTERS,
    MAX_CONTAINING_CHARS,
    chosen_letter,
    gold_letters,
    gold_run,
    named_letters,
)
from megatron_eureka.answers.exact import compare_numbers
from megatron_eureka.answers.notation import bare, normal, unboxed
from megatron_eureka.answers.quantities import parse_quantity, read_number, same_quantity, values_in
from megatron_eureka.answers.question import Question
from megatron_eureka.answers.reading import read
from megatron_eureka.answers.several import answer_parts, blanks, one_to_one, statement_numbers
from megatron_eureka.answers.words import folded, is_undecided, is_words, one_box, same_text, tail

MAX_ANSWER_CHARS = 100_000  # longer ones are wrong: nobody could mark them, and parsers take minutes
ROUNDING = 1e-6  # decimals that differ by less are one number, as for math-verify
EXACT = 1e-8  # absolute; OlympiadBench's default
MAX_FLOAT_DIGITS = 15
MIN_PROSE_WORDS = 4
MAX_CLAUSE_CHARS = 100
FREE = Question()

_MATHS = re.compile(r"[\d\\+*/=^]")  # what could be compared as mathematics; other options are words
_OPERATION = re.compile(r"[+*/^(,-]|\\frac|(?<![_{\d])\d")
_VARIABLE = re.compile(r"\d[A-Za-z](?:\^\{?\d\}?)?$")
_TIME = re.compile(r"\d{1,2}:\d{2}")  # of a day
_RATIO = re.compile(r"\d+(?:\.\d+)?(?:\s*:\s*\d+(?:\.\d+)?)+")
_POINT_NAME = re.compile(r"\$?\s*[A-Z]'?(?:_\{?\d\}?)?\s*(?=\()")
# Numbers with words between them, such as hours and minutes, and ranges: math-verify would find the first one.
_SEVERAL_PARTS = re.compile(r"\d[^\d]*[\u3400-\u9fff][^\d]*\d|\d\s*~\s*\d")
_WORD = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{2,}")
_LIST_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")


def equal(answer: str, gold: str | Sequence[str], question: Question = FREE) -> bool:
    """Whether an answer, as `reading.read` gives it, is right.

    Args:
        gold: the right answer, of a choice its letter; of a question of kind "several" all of them.
    """
    golds = [gold] if isinstance(gold, str) else list(gold)
    if not answer.strip() or len(answer) > MAX_ANSWER_CHARS:
        return False
    answer, golds = normal(answer), [normal_gold(one) for one in golds]
    if question.kind == "several":
        return _same_several(answer, golds, question)
    return _BY_KIND[question.kind](answer, golds[0], question)


@lru_cache(maxsize=4096)
def normal_gold(gold: str) -> str:
    """A gold's normal form, without a box around all of it."""
    gold = normal(gold)
    return unboxed(gold) or gold


def is_prose(gold: str) -> bool:
    """Whether a gold is in sentences."""
    return len(_WORD.findall(gold)) >= MIN_PROSE_WORDS


# --- kinds of questions ---------------------------------------------------------------------------------------------


def _same_choice(answer: str, gold: str, question: Question) -> bool:
    """The gold's option is named; an answer that names none may equal exactly one option's text."""
    wanted = gold_letters(gold)
    if len(wanted) != 1:
        return named_letters(answer) == wanted
    letter = chosen_letter(answer, question.choices)
    if letter is not None:
        return letter in wanted
    choices = [normal(choice) for choice in question.choices]
    if len(choices) < 2 or not _MATHS.search(answer) or len(answer) > MAX_CONTAINING_CHARS:
        return False
    same = [_MATHS.search(choice) is not None and _same(answer, choice, question) for choice in choices]
    return sum(same) == 1 and LETTERS[same.index(True)] in wanted


def _same_integer(answer: str, gold: str, question: Question) -> bool:
    numbers = _numbers(answer, gold, question, of_all=True)
    if numbers:
        return any(abs(value - wanted) < EXACT for value, wanted in numbers)
    return _same_closed(answer, gold, question, lambda wanted: (gold, EXACT))


def _same_float(answer: str, gold: str, question: Question) -> bool:
    digits = 2 if question.precision is None else question.precision
    numbers = _numbers(answer, gold, question)
    if numbers:
        return any(rounding.same_rounded(value, wanted, digits) for value, wanted in numbers)
    return _same_closed(answer, gold, question, lambda wanted: (rounding.rounded(wanted, digits), 0.5 * 10.0**-digits))


def _same_closed(answer: str, gold: str, question: Question, wanted: Callable[[float], tuple[str, float]]) -> bool:
    """Of an answer such as 2\\sqrt{3}: whether its value is the wanted one, within a tolerance."""
    from megatron_eureka.answers.formulas import same_formula

    form, number = rounding.closed_form(answer, question.unit), parse_quantity(gold)
    if not form or not number:
        return False
    value, tolerance = wanted(number.value)
    return same_formula(form, value, tolerance)


def _numbers(answer: str, gold: str, question: Question, of_all: bool = False) -> list[tuple[float, float]]:
    """(answer's number in the asked unit, gold's); none if one of them is no number, or only a bound of one."""
    if is_undecided(bare(answer)):
        return []
    ours, theirs = read_number(answer, of_all), parse_quantity(gold)
    if ours is None or theirs is None:
        return []
    return [(value, theirs.value) for value in values_in(ours, theirs, question.unit)]


def _same_list(answer: str, gold: str, question: Question) -> bool:
    """Equal numbers in the same order; lists of words are compared as texts."""
    ours, theirs = (_list_values(text) for text in (answer, gold))
    if ours is None or theirs is None:
        ours, theirs = ([float(one) for one in _LIST_NUMBER.findall(text)] for text in (answer, gold))
    if not theirs:
        return _same_words(answer, gold, question)
    return len(ours) == len(theirs) and all(abs(one - two) <= EXACT for one, two in zip(ours, theirs, strict=True))


def _list_values(text: str) -> list[float] | None:
    """The numbers of a list such as [1/2, 2]; None where an entry is none."""
    entries = [parse_quantity(entry) for entry in bare(text).strip("[](){} ").split(",")]
    return [entry.value for entry in entries] if all(entries) else None


def _same_words(answer: str, gold: str, question: Question) -> bool:
    if folded(answer) == folded(gold):
        return bool(folded(answer))
    return any(abs(value - wanted) <= EXACT for value, wanted in _numbers(answer, gold, question))


def _same_several(answer: str, golds: list[str], question: Question) -> bool:
    """As many answers as golds, in any order, each equal to one of its own."""
    answers = answer_parts(answer, len(golds))
    tolerances = question.tolerances or (None,) * len(golds)
    pairs = list(zip(golds, tolerances, strict=True))
    return bool(answers) and one_to_one(
        [[_same(one, gold, question, limit) for gold, limit in pairs] for one in answers]
    )


def _same_free(answer: str, gold: str, question: Question) -> bool:
    return _same(answer, gold, question, question.tolerances[0] if question.tolerances else None)


_BY_KIND = {
    "choice": _same_choice,
    "integer": _same_integer,
    "float": _same_float,
    "list": _same_list,
    "text": _same_words,
    "free": _same_free,
}

# --- one answer and one gold ----------------------------------------------------------------------------------------


def _same(answer: str, gold: str, question: Question, tolerance: float | None = None) -> bool:
    if is_prose(gold) and len(_LIST_NUMBER.findall(gold)) > 1:
        if same_text(answer, gold):
            return True
        result = read(bare(gold)[-MAX_CLAUSE_CHARS:], FREE)  # a gold in sentences is read as a response is
        gold = normal(result.text) if result.how == "formula" else gold
    for compare in (_letters, _statements, _blanks, _text, _undecidable):
        verdict = compare(answer, gold)
        if verdict is not None:
            return verdict
    answer, gold = _without_point_name(answer, gold)
    for compare in (compare_numbers, _ratios):
        verdict = compare(bare(answer), bare(gold))
        if verdict or (verdict is False and not tolerance):
            return verdict
    limit = rounding.half_of_last_place(bare(gold)) if tolerance is None else tolerance
    verdict = _quantities(answer, gold, question.unit, limit or ROUNDING)
    if verdict is not None:
        return verdict
    from megatron_eureka.answers.formulas import same_formula  # loads sympy, for seconds

    return same_formula(answer, gold, limit)


def _letters(answer: str, gold: str) -> bool | None:
    letters = gold_letters(gold)
    if letters:
        return named_letters(answer) == letters
    run = gold_run(gold)
    return True if run and named_letters(answer) == run else None


def _statements(answer: str, gold: str) -> bool | None:
    wanted = statement_numbers(gold, as_gold=True)
    if wanted is None:
        return None
    return any(statement_numbers(text) == wanted for text in (one_box(answer) or answer, tail(answer)))


def _blanks(answer: str, gold: str) -> bool | None:
    wanted = blanks(gold)
    if not wanted:
        return None
    found = answer_parts(answer, len(wanted))
    if found and all(_same(one, other, FREE) for one, other in zip(found, wanted, strict=True)):
        return True
    return same_text(answer, gold)


def _text(answer: str, gold: str) -> bool | None:
    return True if same_text(answer, gold) else None


def _undecidable(_: str, gold: str) -> bool | None:
    """False for what is only a text, where the texts differ."""
    return False if is_words(gold) or _SEVERAL_PARTS.search(gold) else None


def _without_point_name(answer: str, gold: str) -> tuple[str, str]:
    """P(2,3) as (2,3) where the other one gives no name."""
    names = _POINT_NAME.match(answer), _POINT_NAME.match(gold)
    if all(names):
        return answer, gold
    return tuple(text[name.end() :] if name else text for text, name in zip((answer, gold), names, strict=True))


def _ratios(answer: str, gold: str) -> bool | None:
    """Whether two ratios such as 2:1 are the same; False for a ratio where a number is wanted."""
    in_full, in_sentence, wanted = (
        _RATIO.fullmatch(text.rpartition("=")[2].strip(" ."))
        for text in (one_box(answer) or answer, tail(answer), gold)
    )
    found = in_full or in_sentence
    if not found or not wanted:
        return False if found else None
    left, right = ([Fraction(part) for part in text.group().replace(" ", "").split(":")] for text in (found, wanted))
    if all(_TIME.fullmatch(text.group()) for text in (found, wanted)):
        return left == right
    return len(left) == len(right) and all(a * right[0] == b * left[0] for a, b in zip(left, right, strict=True))


def _quantities(answer: str, gold: str, unit: str, limit: float) -> bool | None:
    """Whether two numbers, each with or without a unit, are equal; None where they are no such numbers.

    math-verify drops some units and takes others for factors.
    """
    if any(_OPERATION.search(text.rpartition("=")[0]) for text in (answer, gold)) or "=" in gold:
        return None  # an equation, not a name for the number
    wanted = parse_quantity(gold)
    found = parse_quantity(one_box(answer) or answer) or parse_quantity(tail(answer)) if wanted else None
    if found is None or (len(re.findall(r"\d", gold)) > MAX_FLOAT_DIGITS):
        return None
    if (found.unit is None) != (wanted.unit is None) and _VARIABLE.search(bare(answer if found.unit else gold)):
        return None  # 3m may be three times m
    return same_quantity(found, wanted, unit, limit)

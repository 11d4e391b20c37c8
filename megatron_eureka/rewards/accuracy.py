"""Is the answer right? Extraction of the candidate and symbolic comparison by math-verify.

An answer without sentences (a formula, or several with commas, "and", "or" between them) is compared as a whole: all
of it must equal the label. In an answer with sentences math-verify looks for the final result. Letters and words are
compared as such. `compat="mm_eureka"` is in `mm_eureka.py`. Calls here are not bounded in time; `pool.py` bounds them.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from sympy import Basic, Expr, FiniteSet, Interval, Union
from sympy.core.relational import Relational
from sympy.logic.boolalg import And, Or

from megatron_eureka.rewards.choices import TEXT_COMMAND, label_choices, label_run, named_choices
from megatron_eureka.rewards.exact import compare_numbers
from megatron_eureka.rewards.mm_eureka import score_mm_eureka
from megatron_eureka.rewards.notation import plain_forms, to_latex
from megatron_eureka.rewards.quantities import parse_quantity, same_quantity
from megatron_eureka.rewards.same_text import FUNCTIONS, is_words, normalise, one_box, same_text, tail

OPEN, CLOSE = "<answer>", "</answer>"
MAX_ANSWER_CHARACTERS = 100_000  # longer ones are wrong: nobody could mark them, and parsers take minutes
MAX_FORMULA_CHARACTERS = 1_000  # longer ones count as sentences
ROUNDING = 1e-6  # decimals that differ by less are one number, as for math-verify
MAX_SENTENCE_CHARACTERS = 200  # in longer ones "3 or 5" may stand anywhere on the way to the result
# Words of a formula that are no sentence: math-verify takes "and" and "or" for commas, and drops units.
FORMULA_WORDS = FUNCTIONS | frozenset(
    ["and", "or", "mm", "cm", "dm", "km", "ft", "sq", "mg", "kg", "ml", "sec", "min", "hr", "mph", "kmh"]
    + ["deg", "degree", "degrees", "percent", "pi", "inf", "infty"]
)

_COMMAND = re.compile(r"\\[A-Za-z]+")
_WORD = re.compile(r"[^\W\d_]{2,}")
_CJK_UNIT = re.compile(r"(?<=[\d)}\]$°%])\s*[\u3400-\u9fff]{1,4}$")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")
_DELIMITER = re.compile(r"\$|\\[()\[\]]|\*\*")
_MATH_MARKS = re.compile(r"[\\{}^_$]")
_INEQUALITY = re.compile(r"[<>]|\\[lg]eq?(?:slant|q)?\b")
# The number that math-verify would find is denied, or one of two: 5, or perhaps 6. No words of it start a conclusion.
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
_HEDGED_FORMULA = re.compile(r"[(\[]\s*or\b", re.IGNORECASE)
_VARIABLE = re.compile(r"\d[A-Za-z](?:\^\{?\d\}?)?$")
_RATIO = re.compile(r"\d+(?:\.\d+)?(?:\s*[:∶]\s*\d+(?:\.\d+)?)+")
_POINT_NAME = re.compile(r"\$?\s*[A-Z]'?(?:_\{?\d\}?)?\s*(?=\()")
# Numbers with words between them, such as hours and minutes, and ranges: math-verify would find the first one.
_SEVERAL_PARTS = re.compile(r"\d[^\d]*[\u3400-\u9fff][^\d]*\d|\d\s*~\s*\d")
# Relations that math-verify does not know; they are compared as text.
_RELATION = re.compile(r"\\(?:perp|parallel|cong|sim|triangle|angle|odot)\b")
_SEPARATOR = re.compile(r"\s*(?:,|;|\band\b)\s*")
_ASSIGNMENT = re.compile(r"([A-Za-z](?:_\{?\w+\}?)?)\s*=\s*([^=,]+)")


def extract_candidate(response: str) -> str:
    """What the response gives as its answer: the first `<answer>`, else what follows the last open tag, else all."""
    _, opened, rest = response.partition(OPEN)
    answer, closed, _ = rest.partition(CLOSE)
    return (answer if opened and closed else response.rpartition(OPEN)[2]).strip()


def score_accuracy(response: str, label: str, compat: str = "none") -> float:
    """1.0 if the response's answer equals the label, else 0.0."""
    if compat == "mm_eureka":
        return score_mm_eureka(response, label)
    candidate, label = plain_forms(extract_candidate(response)), plain_forms(label)
    if len(candidate) > MAX_ANSWER_CHARACTERS:
        return 0.0
    choices = label_choices(label)
    if choices:
        return float(named_choices(candidate) == choices)
    return float(same_text(candidate, label) or _same_letters(candidate, label) or _same_math(candidate, label))


def check_label(label: str, compat: str = "none") -> str | None:
    """Why no answer could ever be verified against this label, or None if one could."""
    if compat == "mm_eureka":  # pays 1.0 for any response there
        return None
    plain = plain_forms(label)
    if not normalise(plain):
        return f"the label {label!r} is empty"
    if label_choices(plain) or is_words(plain) or any(not isinstance(gold, str) for gold in _parse_gold(plain)):
        return None
    if not _MATH_MARKS.search(_RELATION.sub("", TEXT_COMMAND.sub(r"\1", plain)).replace(r"\$", "").strip().strip("$")):
        return None  # plain text, compared as text
    return f"math-verify cannot parse the label {label!r}; correct it, or write plain text without LaTeX"


def label_kind(label: str) -> str:
    """What sort of answer a label is: choice, number, words, mathematics, or text that is compared as text."""
    plain = plain_forms(label)
    if label_choices(plain):
        return "choice"
    if compare_numbers(plain, plain):
        return "number"
    if is_words(plain):
        return "words"
    return "mathematics" if any(not isinstance(gold, str) for gold in _parse_gold(plain)) else "text"


def _same_letters(candidate: str, label: str) -> bool:
    letters = label_run(label)
    return bool(letters) and named_choices(candidate) == letters


def _same_math(candidate: str, label: str) -> bool:
    if is_words(label) or _SEVERAL_PARTS.search(label):
        return False
    candidate, label = _without_point_name(candidate, label)
    for compare in (compare_numbers, _compare_ratios, _compare_units):
        verdict = compare(candidate, label)
        if verdict is not None:
            return verdict
    formula = _formula(candidate)
    has_box = r"\boxed" in candidate
    if formula is None and not has_box:
        formula = _formula(tail(candidate))
    if formula:
        if _HEDGED_FORMULA.search(formula):
            return False
        found = parse(f"${formula}$", [LatexExtractionConfig()], parsing_timeout=None)
        if any(isinstance(item, Basic) for item in found):
            return _equal(_parse_gold(label), found) or _same_assignments(formula, label)
        if _INEQUALITY.search(formula) and not _INEQUALITY.search(to_latex(label)):
            return False  # math-verify would find the number in it
    elif not has_box and len(candidate) <= MAX_SENTENCE_CHARACTERS and _undecided(candidate):
        return False
    text = _CJK.sub(r" \g<0> ", candidate)  # it takes a number only behind a blank
    found = parse(text, [LatexExtractionConfig(), ExprExtractionConfig()], parsing_timeout=None)
    return _equal(_parse_gold(label), found)


def _without_point_name(candidate: str, label: str) -> tuple[str, str]:
    """P(2,3) as (2,3) where the other one gives no name."""
    names = _POINT_NAME.match(candidate), _POINT_NAME.match(label)
    if all(names):
        return candidate, label
    return tuple(text[name.end() :] if name else text for text, name in zip((candidate, label), names, strict=True))


def _compare_ratios(candidate: str, label: str) -> bool | None:
    """Whether two ratios such as 2:1 are the same; False for a ratio where a number is wanted."""
    in_full, in_sentence, gold = (
        _RATIO.fullmatch(text.strip("$ .")) for text in (one_box(candidate) or candidate, tail(candidate), label)
    )
    found = in_full or in_sentence
    if not found or not gold:
        return False if found else None
    left, right = ([Fraction(part) for part in re.split(r"\s*[:∶]\s*", text.group())] for text in (found, gold))
    return len(left) == len(right) and all(a * right[0] == b * left[0] for a, b in zip(left, right, strict=True))


def _compare_units(candidate: str, label: str) -> bool | None:
    """Whether two numbers of which one has a unit are equal; None where they are no such numbers.

    math-verify drops some units and takes others for factors.
    """
    gold = parse_quantity(label)
    found = parse_quantity(one_box(candidate) or candidate) or parse_quantity(tail(candidate)) if gold else None
    if found is None or not (found.unit or gold.unit):
        return None
    if not (found.unit and gold.unit) and _VARIABLE.search((candidate if found.unit else label).strip("$ .")):
        return None  # 3m may be three times m
    return same_quantity(found, gold, "", ROUNDING)


def _undecided(sentence: str) -> bool:
    return any(pattern.search(sentence) for pattern in (_HEDGE, _DENIED, _BOUND))


def _equal(gold: list, found: list) -> bool:
    if gold and found and _surely_different(gold[0], found[0]):
        return False
    if any(isinstance(item, And) for item in gold) and any(isinstance(item, FiniteSet) for item in found):
        return False  # 1 < x < 3 is not 1, 3, which math-verify takes for the pair (1, 3)
    if verify(gold, found, timeout_seconds=None):
        return True
    # math-verify takes an interval for an inequality only where the inequality is the gold.
    turned = any(isinstance(item, Interval | Union) for item in gold)
    turned = turned and any(isinstance(item, Relational | And | Or) for item in found)
    return turned and verify(found, gold, timeout_seconds=None)


def _surely_different(first: object, second: object) -> bool:
    """Whether two constants differ by more than any rounding; math-verify would try to simplify their difference."""
    if not all(isinstance(item, Expr) and item.is_number for item in (first, second)):
        return False
    difference = (first - second).evalf(15)  # of 50% not comparable: math-verify takes it for 50 as well
    return bool(difference.is_comparable and abs(difference) > 1e-4)


def _same_assignments(formula: str, label: str) -> bool:
    """Whether both give the same variables the same values, in any order; or a point (2,3) and x=2, y=3."""
    found, gold = _assignments(formula), _assignments(to_latex(label))
    if not found or (gold and found.keys() != gold.keys()):
        return False
    point = f"({','.join(found[name] for name in sorted(found))})"
    label = f"({','.join(gold[name] for name in sorted(gold))})" if gold else label
    return label.lstrip("$ ").startswith("(") and _equal(
        _parse_gold(label), parse(f"${point}$", [LatexExtractionConfig()], parsing_timeout=None)
    )


def _assignments(text: str) -> dict[str, str]:
    """{variable: value} of a text such as `x=2, y=3`; empty for any other, and for a variable that comes twice."""
    parts = [_ASSIGNMENT.fullmatch(part) for part in _SEPARATOR.split(_DELIMITER.sub("", text).strip(" ."))]
    values = {part.group(1): part.group(2) for part in parts if part}
    return values if len(values) == len(parts) > 1 else {}


def _formula(candidate: str) -> str | None:
    """The candidate as one formula without its delimiters; None for one with sentences in it."""
    if len(candidate) > MAX_FORMULA_CHARACTERS or _CJK.search(candidate):
        return None
    text = to_latex(_DELIMITER.sub(" ", candidate))
    words = _WORD.findall(_COMMAND.sub(" ", text))
    if any(word.lower() not in FORMULA_WORDS and not word.isupper() for word in words):
        return None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    text = (text if r"\begin" in text else ", ".join(lines)).strip().rstrip(" .,;:")
    return text.removeprefix(r"\approx").strip()


@lru_cache(maxsize=4096)
def _parse_gold(label: str) -> list:
    text = " ".join(to_latex(_CJK_UNIT.sub("", label)).split())
    text = text[1:-1] if text.startswith("$") and text.endswith("$") and text.count("$") == 2 else text
    return parse(text if "$" in text else f"${text}$", parsing_timeout=None)

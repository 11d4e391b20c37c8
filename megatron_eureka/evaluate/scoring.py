"""Is the answer right? By rule, without a network: each kind of question has its comparison.

Letters, numbers and words are compared here; formulas by math-verify, in processes that are bounded in time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_eureka.evaluate.answers import folded, split_answers
from megatron_eureka.evaluate.choices import LETTERS, MAX_CONTAINING_CHARS, chosen_letter
from megatron_eureka.evaluate.extraction import extract
from megatron_eureka.evaluate.item import BenchmarkItem
from megatron_eureka.evaluate.numbers import closed_form, list_values, read_number, rounded, same_rounded
from megatron_eureka.rewards import pool
from megatron_eureka.rewards.notation import plain
from megatron_eureka.rewards.quantities import Quantity, parse_quantity, same_quantity, values_in

VERIFIER = Path(pool.__file__).with_name("benchmark_answers.py")
MAX_SYMBOLIC_CHARS = 1000  # a longer answer is no formula
EXACT = 1e-8  # absolute; OlympiadBench's default

Call = tuple[str, tuple]  # a function of VERIFIER and its arguments
Cell = bool | Call  # whether one answer equals one gold, or what has to be asked for it

# What math-verify could compare; other options are words.
_MATHS = re.compile(r"[\d\\+*/=√π^]")
_DECIMALS = re.compile(r"-?\d+\.(\d{2,})")
_LIST_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")


@dataclass(frozen=True)
class Verdict:
    """What a response gives as its answer, and whether that is right."""

    extracted: str
    correct: bool


class AnswerScorer:
    """Scores responses by rule. `counters` has the comparisons over their time limit and those that failed; both
    count as unequal. Usable as a context manager; `close` ends the worker processes.

    Args:
        workers: processes for formulas; they start when the first one has to be compared.
        timeout_s: of one comparison.
        compat: of the training reward, for questions in the training format.
    """

    def __init__(self, workers: int = 2, timeout_s: float = 5.0, compat: str = "none"):
        self.compat = compat
        self._pool = pool.VerifierPool(workers, timeout_s, VERIFIER)
        self.counters = self._pool.counters

    def score(self, pairs: Sequence[tuple[BenchmarkItem, str]]) -> list[Verdict]:
        """A verdict on each response."""
        candidates = [_candidate(item, response) for item, response in pairs]
        grids = [
            _cells(item, response, candidate, self.compat)
            for (item, response), candidate in zip(pairs, candidates, strict=True)
        ]
        calls = list(
            dict.fromkeys(cell for grid in grids for row in grid for cell in row if not isinstance(cell, bool))
        )
        found = {
            call: outcome.status == "ok" and bool(outcome.value)
            for call, outcome in zip(calls, self._pool.run(calls) if calls else [], strict=True)
        }
        verdicts = []
        for (item, _), candidate, grid in zip(pairs, candidates, grids, strict=True):
            equal = [[cell if isinstance(cell, bool) else found[cell] for cell in row] for row in grid]
            verdicts.append(Verdict(candidate, _is_right(item, equal)))
        return verdicts

    def close(self) -> None:
        """End the worker processes."""
        self._pool.close()

    def __enter__(self) -> AnswerScorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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


def _candidate(item: BenchmarkItem, response: str) -> str:
    """What counts as the answer; in the training format what the reward looks at."""
    if item.kind != "reward":
        return extract(response, item.kind).text
    from megatron_eureka.rewards.accuracy import extract_candidate  # loads sympy

    return extract_candidate(response)


def _cells(item: BenchmarkItem, response: str, candidate: str, compat: str) -> list[list[Cell]]:
    """[answers][golds], of a choice [[of each option]]; a single False where there is nothing to compare."""
    if item.kind == "reward":
        return [[("score_accuracy", (response, item.gold[0], compat))]]
    if not candidate:
        return [[False]]
    if item.kind == "answers":
        answers = split_answers(_without_brackets(candidate))
        if len(answers) != len(item.gold):
            return [[False]]
        return [[_compare(item, answer, number) for number in range(len(item.gold))] for answer in answers]
    if item.kind == "choice":
        return [_options(item, candidate)]
    if item.kind == "math":
        return [[_compare(item, candidate, 0)]]
    local = {"integer": _same_integer, "float": _same_float, "list": _same_list}
    return [[local.get(item.kind, _same_text)(item, candidate)]]


def _is_right(item: BenchmarkItem, equal: list[list[bool]]) -> bool:
    if item.kind != "choice" or len(equal[0]) == 1:
        return one_to_one(equal)
    return sum(equal[0]) == 1 and equal[0][LETTERS.index(item.gold[0])]


def _options(item: BenchmarkItem, candidate: str) -> list[Cell]:
    """Whether the answer names the gold's option; of an answer that names none, whether it equals each option."""
    letter = chosen_letter(candidate, item.choices)
    formulas = _MATHS.search(candidate) and len(candidate) <= MAX_CONTAINING_CHARS and len(item.choices) > 1
    if letter is not None or not formulas:
        return [letter == item.gold[0]]
    return [_MATHS.search(choice) is not None and _compared(candidate, choice) for choice in item.choices]


def _same_integer(item: BenchmarkItem, candidate: str) -> Cell:
    numbers = _numbers(item, candidate, of_all=True)
    if numbers:
        return any(abs(value - gold) < EXACT for value, gold in numbers)
    return _same_closed(item, candidate, lambda gold: (item.gold[0], EXACT))


def _same_float(item: BenchmarkItem, candidate: str) -> Cell:
    digits = item.precision if item.precision is not None else 2
    numbers = _numbers(item, candidate)
    if numbers:
        return any(same_rounded(value, gold, digits) for value, gold in numbers)
    return _same_closed(item, candidate, lambda gold: (rounded(gold, digits), 0.5 * 10.0**-digits))


def _same_closed(item: BenchmarkItem, candidate: str, wanted: Callable[[float], tuple[str, float]]) -> Cell:
    """Of an answer such as 2\\sqrt{3}: whether its value is the wanted one, within a tolerance."""
    form, gold = closed_form(candidate, item.unit), parse_quantity(item.gold[0])
    return ("same_answer", (form, *wanted(gold.value))) if form and gold else False


def _numbers(item: BenchmarkItem, candidate: str, of_all: bool = False) -> list[tuple[float, float]]:
    """(candidate's number in the asked unit, gold's); none if one of them is no number."""
    ours, theirs = read_number(candidate, of_all), parse_quantity(item.gold[0])
    if ours is None or theirs is None:
        return []
    return [(value, theirs.value) for value in values_in(ours, theirs, item.unit)]


def _same_list(item: BenchmarkItem, candidate: str) -> bool:
    """Equal numbers in the same order; lists of words are compared as texts."""
    ours, theirs = (list_values(text) for text in (candidate, item.gold[0]))
    if ours is None or theirs is None:
        ours, theirs = ([float(one) for one in _LIST_NUMBER.findall(plain(text))] for text in (candidate, item.gold[0]))
    if not theirs:
        return _same_text(item, candidate)
    return len(ours) == len(theirs) and all(abs(one - two) <= EXACT for one, two in zip(ours, theirs, strict=True))


def _same_text(item: BenchmarkItem, candidate: str) -> bool:
    if folded(candidate) == folded(item.gold[0]):
        return bool(folded(candidate))
    return any(abs(value - gold) <= EXACT for value, gold in _numbers(item, candidate))


def _compare(item: BenchmarkItem, answer: str, number: int) -> Cell:
    tolerance = item.tolerances[number] if item.tolerances else None
    return _compared(answer, item.gold[number], item.unit, tolerance)


def _compared(answer: str, gold: str, unit: str = "", tolerance: float | None = None) -> Cell:
    """One answer and one gold, as numbers if both are, as texts, else by math-verify."""
    if folded(answer) == folded(gold):
        return True
    ours, theirs = parse_quantity(answer), parse_quantity(gold)
    tolerance = _rounding(gold, theirs) if tolerance is None else tolerance
    if ours and theirs:
        return same_quantity(ours, theirs, unit, tolerance)
    if len(answer) > MAX_SYMBOLIC_CHARS or not answer:
        return False
    return "same_answer", (answer, gold, tolerance)


def _rounding(gold: str, quantity: Quantity | None) -> float:
    """A gold of two or more decimals is a rounded one: what rounds to it is right. Others are exact."""
    found = _DECIMALS.fullmatch(plain(gold)) if quantity else None
    return 0.5 * 10.0 ** -len(found.group(1)) if found else EXACT


def _without_brackets(text: str) -> str:
    """A list of answers without the braces or brackets around all of it."""
    inner = plain(text).replace("\\{", "{").replace("\\}", "}")
    if inner[:1] == "{" and inner[-1:] == "}" and "{" not in inner[1:]:
        return inner[1:-1]
    return text

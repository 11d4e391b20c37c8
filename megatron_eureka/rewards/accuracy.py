"""Is the answer right? Extraction of the candidate and symbolic comparison by math-verify.

`compat="mm_eureka"` reproduces MM-EUREKA's reward (April 2025), its errors included: an unparseable gold pays 1, and a
choice a-d matches as a substring. Calls here are not bounded in time; `pool.py` bounds them.
"""

from __future__ import annotations

import re

from math_verify import ExprExtractionConfig, LatexExtractionConfig, StringExtractionConfig, parse, verify

ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
# Words that are mathematics.
FUNCTIONS = frozenset(["sin", "cos", "tan", "cot", "sec", "csc", "log", "exp", "max", "min"])

_DECORATION = r"[\s$*()\[\].:,]*"
_LONE_CHOICE = re.compile(rf"{_DECORATION}([A-Ja-j]){_DECORATION}")
# A letter as an option: a word of its own, not a unit behind a number. A and I are English words too, so these two
# count only where they are marked as options.
_MARKED_CHOICE = re.compile(
    r"\(([A-J])\)"  # (B)
    r"|(?:^|(?<=[\s$*])(?<!\d\s))([A-J])(?=\s*(?:[.:),*$]|$))"  # B. or B: or a last B
    r"|(?i:option|choice|answer(?: is)?:?)\s*\(?([A-J])\b"  # option B
)
_WORD_CHOICE = re.compile(r"(?<![\w'])(?<!\d\s)([B-HJ])(?![\w'])")
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|mathrm|mathbf|boxed|fbox)\s*\{([^{}]*)\}")
_BOXED = re.compile(r"\\boxed\s*\{([^{}]*)\}")
_MATH_MARKS = re.compile(r"[\\{}^_$]")


def extract_candidate(response: str) -> str:
    """What the response gives as its answer: the first `<answer>`, else what follows the last open tag, else all."""
    found = ANSWER.search(response)
    return (found.group(1) if found else response.rpartition("<answer>")[2]).strip()


def score_accuracy(response: str, label: str, compat: str = "none") -> float:
    """1.0 if the response's answer equals the label, else 0.0."""
    if compat == "mm_eureka":
        return _score_mm_eureka(response, label)
    candidate = extract_candidate(response)
    choice = _as_choice(label)
    if choice:
        return float(_choices(candidate) == {choice})
    if not _is_words(label) and _verify_math(candidate, label):
        return 1.0
    boxed = _BOXED.findall(candidate)
    answer = _normalise(boxed[-1] if boxed else candidate)
    return float(bool(answer) and answer == _normalise(label))


def check_label(label: str, compat: str = "none") -> str | None:
    """Why no answer could ever be verified against this label, or None if one could."""
    if compat == "mm_eureka":  # pays 1.0 for any response there
        return None
    if not _normalise(label):
        return f"the label {label!r} is empty"
    if _as_choice(label) or _is_words(label) or any(not isinstance(gold, str) for gold in _parse_gold(label)):
        return None
    if not _MATH_MARKS.search(_TEXT_COMMAND.sub(r"\1", label).strip().strip("$")):
        return None  # plain text, compared as text
    return f"math-verify cannot parse the label {label!r}; correct it, or write plain text without LaTeX"


def _verify_math(candidate: str, label: str) -> bool:
    answer = parse(candidate, [LatexExtractionConfig(), ExprExtractionConfig()], parsing_timeout=None)
    return verify(_parse_gold(label), answer, timeout_seconds=None)


def _parse_gold(label: str) -> list:
    text = " ".join(label.split())
    text = text[1:-1] if text.startswith("$") and text.endswith("$") and text.count("$") == 2 else text
    return parse(text if "$" in text else f"${text}$", parsing_timeout=None)


def _as_choice(label: str) -> str | None:
    found = _LONE_CHOICE.fullmatch(_TEXT_COMMAND.sub(r"\1", label))
    return found.group(1).upper() if found else None


def _choices(candidate: str) -> set[str]:
    """The option letters that the candidate names."""
    boxed = _BOXED.findall(candidate)
    text = _TEXT_COMMAND.sub(r"\1", boxed[-1] if boxed else candidate)
    lone = _LONE_CHOICE.fullmatch(text)
    if lone:
        return {lone.group(1).upper()}
    marked = {letter for found in _MARKED_CHOICE.finditer(text) for letter in found.groups() if letter}
    return marked | set(_WORD_CHOICE.findall(text))


def _is_words(label: str) -> bool:
    """Whether the label is language: math-verify would read `yes` as the product of three variables."""
    if re.search(r"[^\w\s'.,-]|[\d_]", label):
        return False
    return any(len(word) > 2 and word.lower() not in FUNCTIONS for word in re.findall(r"\w+", label))


def _normalise(text: str) -> str:
    text = _TEXT_COMMAND.sub(r"\1", text).replace("$", " ")
    return " ".join(text.replace("**", "").split()).rstrip(" .,;:").casefold()


def _score_mm_eureka(response: str, label: str) -> float:
    """MM-EUREKA's accuracy: tags are searched within a line and stay in the text; the comparison has gold second."""
    response = response.strip()
    if not response:
        return 0.0
    tagged = re.search(r"<answer>(.*?)</answer>", response)
    content = tagged.group(0) if tagged else response.rpartition("<answer>")[2]
    gold = parse(f"${label}$", parsing_timeout=None)
    if not gold:
        return 1.0
    extractors = [StringExtractionConfig(), LatexExtractionConfig(), ExprExtractionConfig()]
    if verify(parse(content, extractors, parsing_timeout=None), gold, timeout_seconds=None):
        return 1.0
    student = (tagged.group(1) if tagged else content).replace("</answer>", "").replace("<answer>", "").lower()
    for choice in {str(item).lower() for item in gold} & set("abcd"):
        if choice in student and not any(other in student for other in set("abcd") - {choice}):
            return 1.0
    return 0.0

"""Is the answer right? What the verifier processes of `pool.py` run; nothing here is bounded in time."""

from __future__ import annotations

from megatron_eureka import answers
from megatron_eureka.answers import label_kind  # noqa: F401 (called by name, as the functions here)
from megatron_eureka.rewards.mm_eureka import score_mm_eureka


def score_accuracy(response: str, label: str, compat: str = "none") -> float:
    """1.0 if the response's answer equals the label, else 0.0."""
    if compat == "mm_eureka":
        return score_mm_eureka(response, label)
    question = answers.question_of(label)
    return float(answers.equal(answers.read(response, question).text, label, question))


def judge_answer(response: str, gold: list[str], question: dict, compat: str = "none") -> tuple[str, bool]:
    """What a response to a benchmark's question gives as its answer, and whether that is right.

    Args:
        question: the fields of an `answers.Question`.
    """
    asked = answers.Question(**question)
    answer = answers.read(response, asked).text
    if compat == "mm_eureka":
        return answer, score_mm_eureka(response, gold[0]) == 1.0
    return answer, answers.equal(answer, gold if asked.kind == "several" else gold[0], asked)


def check_label(label: str, compat: str = "none") -> str | None:
    """Why no answer could ever be verified against this label, or None if one could; MM-EUREKA pays 1.0 for any."""
    return None if compat == "mm_eureka" else answers.check_label(label)

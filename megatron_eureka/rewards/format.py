"""Does the response think first and then answer, in tags?"""

from __future__ import annotations

TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def score_format(response: str, anchored: bool = False, compat: str = "none") -> float:
    """1.0 for `<think>...</think> <answer>...</answer>`, else 0.0.

    Each tag stands exactly once and in this order, neither part is empty, and only white space stands between them.

    Args:
        response: the whole text.
        anchored: refuse text before `<think>` and after `</answer>`.
        compat: "mm_eureka" takes white space for content.
    """
    if any(response.count(tag) != 1 for tag in TAGS):
        return 0.0
    before, _, rest = response.partition("<think>")
    thought, _, rest = rest.partition("</think>")
    between, _, rest = rest.partition("<answer>")
    answer, closed, after = rest.partition("</answer>")
    if compat != "mm_eureka":
        thought, answer = thought.strip(), answer.strip()
    outside = (before + after).strip() if anchored else ""
    return float(bool(closed and thought and answer) and not between.strip() and not outside)

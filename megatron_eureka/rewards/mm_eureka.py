"""MM-EUREKA's accuracy reward (April 2025), its errors included: an unparseable gold pays 1, and a choice a-d matches
as a substring.
"""

from __future__ import annotations

import re

from math_verify import ExprExtractionConfig, LatexExtractionConfig, StringExtractionConfig, parse, verify


def score_mm_eureka(response: str, label: str) -> float:
    """1.0 or 0.0; tags are searched within a line and stay in the text, and the comparison has gold second."""
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

"""How much does a response repeat itself? The share of n-grams that were there before, as open-r1 counts it."""

from __future__ import annotations

import re

# A word is what stands between blanks; scripts without blanks (Chinese, kana) count by character.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+")


def score_repetition(response: str, ngram: int, penalty: float) -> float:
    """-penalty x (1 - distinct / all) over the n-grams of words, case ignored; 0.0 for fewer words than one n-gram.

    Args:
        response: the whole text.
        ngram: words of an n-gram.
        penalty: what a response of nothing but repetition approaches, >= 0.
    """
    words = _WORD.findall(response.lower())
    num_ngrams = len(words) - ngram + 1
    if num_ngrams < 1:
        return 0.0
    distinct = len(set(zip(*(words[start : start + num_ngrams] for start in range(ngram)), strict=True)))
    return penalty * (distinct / num_ngrams - 1)

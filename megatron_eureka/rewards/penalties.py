"""Penalties that take no time: for responses that are too long, and for those that repeat themselves."""

from __future__ import annotations

import re

# A word is what stands between blanks; scripts without blanks (Chinese, kana) count by character.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+")


def score_overlong(num_tokens: int, max_tokens: int, buffer_tokens: int, penalty: float) -> float:
    """The soft over-long punishment of DAPO (arXiv 2503.14476, equation 13).

    0 up to max_tokens - buffer_tokens, falling linearly to -penalty at max_tokens, and no further.

    Args:
        num_tokens: length of the response; one that was cut off has max_tokens.
        max_tokens: the longest response that can be generated.
        buffer_tokens: tokens over which the penalty grows.
        penalty: its largest size, >= 0.
    """
    excess = num_tokens - (max_tokens - buffer_tokens)
    return -penalty * min(1.0, excess / buffer_tokens) if excess > 0 else 0.0


def score_repetition(response: str, ngram: int, penalty: float) -> float:
    """The share of n-grams that were there before, as open-r1 counts it.

    -penalty x (1 - distinct / all) over the n-grams of words, case ignored; 0.0 for fewer words than one n-gram.

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

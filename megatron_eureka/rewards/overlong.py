"""The soft over-long punishment of DAPO (arXiv 2503.14476, equation 13)."""

from __future__ import annotations


def score_overlong(num_tokens: int, max_tokens: int, buffer_tokens: int, penalty: float) -> float:
    """0 up to max_tokens - buffer_tokens, falling linearly to -penalty at max_tokens, and no further.

    Args:
        num_tokens: length of the response; one that was cut off has max_tokens.
        max_tokens: the longest response that can be generated.
        buffer_tokens: tokens over which the penalty grows.
        penalty: its largest size, >= 0.
    """
    excess = num_tokens - (max_tokens - buffer_tokens)
    return -penalty * min(1.0, excess / buffer_tokens) if excess > 0 else 0.0

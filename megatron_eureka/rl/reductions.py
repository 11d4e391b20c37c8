"""Weights that turn token losses into the loss of a global batch.

The denominators belong to the whole update over all ranks, so a token's weight does not depend on the micro-batch,
the packing or the rank it falls on; gradients of the parts are summed, never averaged.
"""

from __future__ import annotations

from collections.abc import Sequence


def sample_weights(kind: str, num_tokens: Sequence[int], max_tokens: int = 0) -> list[float]:
    """The weight of every token of each sample of an update.

    Args:
        kind: `sample_mean`, the mean over samples of their token means; `token_mean`, the mean over all tokens (DAPO,
            arXiv 2503.14476, section 3.3); `dr_grpo`, the sum over samples x `max_tokens`, which favours no length
            (Understanding R1-Zero-Like Training, section 3.2).
        num_tokens: [samples] trained response tokens of every sample of the global update; samples without tokens
            do not count as trained, but `dr_grpo` counts all.
        max_tokens: the longest response that sampling allows; only `dr_grpo` asks for it.

    Returns:
        [samples] float, such that sum over tokens of weight * loss is the batch's loss.
    """
    if kind == "sample_mean":
        num_samples = sum(count > 0 for count in num_tokens)
        return [1.0 / (num_samples * count) if count else 0.0 for count in num_tokens]
    if kind == "token_mean":
        total = sum(num_tokens)
        return [1.0 / total if count else 0.0 for count in num_tokens]
    if kind == "dr_grpo":
        return [1.0 / (len(num_tokens) * max_tokens) if count else 0.0 for count in num_tokens]
    raise ValueError(f"Reduction {kind!r} is unknown; use 'sample_mean', 'token_mean' or 'dr_grpo'.")

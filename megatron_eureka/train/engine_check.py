"""At a run's first step: do engine and trainer compute the same model? If not, the run ends before it trains."""

from __future__ import annotations

from megatron_eureka.config.schema import Config
from megatron_eureka.log import logger

# Mean absolute difference of log-probs that rounding explains. Two float32 programs differ by 1e-5; in bf16 single
# tokens differ by up to 0.07, means by 0.01 to 0.02. Another model, or a part of it that one side leaves out, is off by
# several tenths.
BOUNDS = {"fp32": 1e-3, "bf16": 0.05}

CAUSES = (
    "the engine has other weights than the trainer: a weight sync that was lost, or a folder that changed meanwhile",
    "config.json asks for something that one of the two leaves out, such as a scaled RoPE or a sliding window",
    "images look different to the two: data.max_pixels or preprocessor_config.json (then text alone agrees)",
    "the engine runs in another precision, or its attention kernel is at fault: compare with precision.dtype=fp32",
)


def check_engine(difference: float, num_tokens: float, config: Config) -> bool:
    """Compare log-probs of the tokens that the engine has just drawn.

    Args:
        difference: of their log-probs by engine and trainer, absolute, mean over a step's; the same on every rank.
        num_tokens: that there are.

    Returns:
        whether there was something to compare: fresh samples of the whole vocabulary.

    Raises:
        RuntimeError: the difference is more than rounding, with likely causes in order; a warning instead where
            `algorithm.correction.on_mismatch` is "warn".
    """
    if not config.rollout.samples_whole_vocabulary:
        logger.warning(
            "engine and trainer are not compared: rollout.top_p or top_k cut the engine's distribution, and its "
            "log-probs are those within. A first step with all tokens shows whether they agree."
        )
        return True
    if not num_tokens:
        return False
    bound = BOUNDS[config.precision.dtype]
    if difference <= bound:
        return True
    causes = "; ".join(f"({number}) {cause}" for number, cause in enumerate(CAUSES, 1))
    text = (
        f"Engine and trainer give the same tokens log-probs that differ by {difference:.3g} on average; rounding of "
        f"{config.precision.dtype} explains {bound:g} at most. Likely causes, in this order: {causes}."
    )
    if config.algorithm.correction.on_mismatch == "stop":
        raise RuntimeError(f"{text} Nothing was trained. To go on all the same: algorithm.correction.on_mismatch=warn.")
    logger.warning("%s", text)
    return True

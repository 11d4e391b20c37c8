"""Options of the algorithm: advantages, losses, filter, KL terms, rollout correction; see docs/algorithms.md."""

from typing import Annotated, Literal

from pydantic import Field

from megatron_eureka.config.bounds import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Share
from megatron_eureka.config.section import Section


class Filter(Section):
    enabled: bool = Field(True, description="Keep only groups whose mean accuracy lies within the bounds.")
    lower: Fraction = Field(0.1, description="Smallest mean accuracy kept, inclusive, compared by counts.")
    upper: Fraction = Field(0.9, description="Largest mean accuracy kept, inclusive, compared by counts.")
    max_rounds: PositiveInt = Field(
        10, description="Most rounds for a batch; a short one is trained on, an empty one ends the run."
    )
    refill: bool = Field(True, description="Generate again until the batch is full; else train on what passed.")
    max_staleness: NonNegativeInt = Field(1, description="Policy versions that a surplus group may wait.")


class Adora(Section):
    enabled: bool = Field(False, description="Weigh down groups whose right answers are not longer than wrong ones.")
    weight: NonNegativeFloat = Field(0.1, description="Factor on the advantages of such a group.")


class Gspo(Section):
    clip_low: Share = Field(3e-4, description="Lower clip range of the sequence ratio (loss gspo).")
    clip_high: PositiveFloat = Field(4e-4, description="Upper clip range of the sequence ratio (loss gspo).")


class Cispo(Section):
    max_ratio: PositiveFloat = Field(5.0, description="Largest importance weight of a token (loss cispo).")


class Kl(Section):
    coef: NonNegativeFloat = Field(
        0.0, description="Weight of the KL term against the starting model; 0: none, and no reference model is held."
    )
    estimator: Literal["k1", "k2", "k3"] = Field("k3", description="Estimator of a token's KL from its log-probs.")
    place: Literal["loss", "reward"] = Field(
        "loss", description="A term of the loss, or a penalty on a response's reward (its tokens' sum)."
    )


class Correction(Section):
    weights: Literal["none", "token", "sequence"] = Field(
        "token", description="Importance weights trainer / engine on the loss: none, of tokens, or of whole responses."
    )
    cap: PositiveFloat = Field(2.0, description="Largest importance weight (truncated importance sampling).")
    reject: Literal["none", "token", "sequence", "geometric"] = Field(
        "none",
        description="Leave out of the loss what lies outside the bounds: tokens by their ratio, responses by the "
        "product of their ratios or by its geometric mean.",
    )
    reject_low: NonNegativeFloat = Field(0.5, description="Smallest ratio trainer / engine that is not rejected.")
    reject_high: PositiveFloat = Field(2.0, description="Largest ratio trainer / engine that is not rejected.")
    alarm: PositiveFloat = Field(
        0.01, description="Warn when the mean difference of engine and trainer probabilities is larger; 0.005 is sound."
    )
    on_mismatch: Literal["stop", "warn"] = Field(
        "stop", description="What happens when log-probs of a run's first samples differ by more than rounding."
    )


class Algorithm(Section):
    advantage: Literal["grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline"] = Field(
        "grpo", description="Advantage estimator; the last three are whitened over the tokens of the step."
    )
    loss: Literal["ppo_clip", "gspo", "cispo"] = Field(
        "ppo_clip", description="Policy loss. DAPO is ppo_clip with options of its own: configs/recipe/dapo.yaml."
    )
    clip_low: Share = Field(0.2, description="Lower clip range of the probability ratio (loss ppo_clip).")
    clip_high: PositiveFloat = Field(0.2, description="Upper clip range of the probability ratio (loss ppo_clip).")
    dual_clip: Annotated[float, Field(gt=1.0)] = Field(
        3.0, description="Cap of the ratio for negative advantages (loss ppo_clip)."
    )
    reduction: Literal["sample_mean", "token_mean", "dr_grpo"] = Field(
        "sample_mean",
        description="Mean over samples of token means, mean over all tokens, or sum over "
        "samples x rollout.max_response_tokens; global denominators.",
    )
    entropy_coef: float = Field(0.0, description="Weight of the entropy bonus; entropy is logged anyway.")
    truncated: Literal["keep", "mask", "penalize", "overwrite"] = Field(
        "keep",
        description="Responses cut at the length limit: train, leave out of the loss, score 0, or put the end token "
        "in the last one's place (as MM-EUREKA does).",
    )
    filter: Filter = Filter()
    adora: Adora = Adora()
    gspo: Gspo = Gspo()
    cispo: Cispo = Cispo()
    kl: Kl = Kl()
    correction: Correction = Correction()

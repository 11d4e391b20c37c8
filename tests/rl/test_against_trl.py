"""Whole losses and advantages beside TRL's own functions, on random tensors."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from trl import GRPOTrainer

from megatron_eureka.config.algorithm import Algorithm
from megatron_eureka.rl.correction import correct
from megatron_eureka.rl.kl import KL_ESTIMATORS
from megatron_eureka.rl.losses import LOSSES, Tokens
from megatron_eureka.rl.reductions import sample_weights

LENGTHS = (5, 2, 7, 1, 4, 6)
LONGEST = 9  # the limit of sampling; none of the responses reaches it

# Our options, and what TRL calls the same.
CASES = {
    "grpo": (
        {"reduction": "sample_mean", "clip_low": 0.2, "clip_high": 0.2},
        {"loss_type": "grpo", "epsilon_low": 0.2, "epsilon_high": 0.2, "delta": 3.0},
    ),
    "dapo": (
        {"reduction": "token_mean", "clip_low": 0.2, "clip_high": 0.28},
        {"loss_type": "dapo", "epsilon_low": 0.2, "epsilon_high": 0.28, "delta": 3.0},
    ),
    "dr_grpo": (
        {"reduction": "dr_grpo", "clip_low": 0.1, "clip_high": 0.3, "dual_clip": 2.0},
        {"loss_type": "dr_grpo", "epsilon_low": 0.1, "epsilon_high": 0.3, "delta": 2.0},
    ),
    "gspo": (
        {"loss": "gspo", "reduction": "sample_mean", "gspo": {"clip_low": 0.1, "clip_high": 0.15}},
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon_low": 0.1, "epsilon_high": 0.15},
    ),
    "cispo": (
        {"loss": "cispo", "reduction": "token_mean", "cispo": {"max_ratio": 1.3}},
        {"loss_type": "cispo", "epsilon_high": 1.3},
    ),
    "kl": (
        {"reduction": "token_mean", "kl": {"coef": 0.3, "estimator": "k3"}},
        {"loss_type": "dapo", "beta": 0.3, "delta": 3.0},
    ),
    "entropy": (
        {"reduction": "token_mean", "entropy_coef": 0.05},
        {"loss_type": "dapo", "entropy_coef": 0.05, "delta": 3.0},
    ),
    "correction": (
        {"reduction": "token_mean", "correction": {"weights": "token", "cap": 1.2}},
        {"loss_type": "dapo", "clip_max": 1.2, "delta": 3.0},
    ),
}


@pytest.fixture(params=range(3))
def batch(request) -> dict[str, torch.Tensor]:
    """[samples, longest] tensors as TRL pads them, float64."""
    generator = torch.Generator().manual_seed(request.param)

    def draw(scale):
        return scale * torch.randn(len(LENGTHS), max(LENGTHS), generator=generator, dtype=torch.float64)

    old = -draw(1.0).abs()
    return {
        "old": old,
        "logprobs": old + draw(0.3),
        "reference": old + draw(0.3),
        "engine": old + draw(0.2),
        "entropies": draw(1.0).abs(),
        "advantages": torch.randn(len(LENGTHS), generator=generator, dtype=torch.float64),
        "mask": (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long(),
    }


def ours(batch: dict, options: Algorithm) -> tuple[float, torch.Tensor]:
    """Loss and gradient [samples, longest], from the flat tokens that the trainer has."""
    mask = batch["mask"].bool()
    logprobs = batch["logprobs"].clone().requires_grad_()
    index = torch.arange(len(LENGTHS))[:, None].expand_as(mask)[mask]
    tokens = Tokens(logprobs[mask], batch["old"][mask], batch["advantages"][index], index)
    weights = torch.tensor(sample_weights(options.reduction, LENGTHS, LONGEST), dtype=torch.float64)[index]
    correction = correct(batch["old"][mask], batch["engine"][mask], index, options.correction)
    total = correction.weights * LOSSES[options.loss](tokens, options).loss
    total = total - options.entropy_coef * batch["entropies"][mask]
    total = total + options.kl.coef * KL_ESTIMATORS[options.kl.estimator](tokens.logprobs - batch["reference"][mask])
    loss = (weights * total).sum()
    loss.backward()
    return loss.item(), logprobs.grad


def theirs(batch: dict, options: dict) -> tuple[float, torch.Tensor]:
    """The same from `GRPOTrainer._compute_loss`, on a trainer that is made of its settings alone."""
    logprobs = batch["logprobs"].clone().requires_grad_()
    mask = batch["mask"]
    trainer = SimpleNamespace(
        args=SimpleNamespace(
            delta=options.get("delta"), use_bias_correction_kl=False, steps_per_generation=1, entropy_target=None
        ),
        model=SimpleNamespace(training=True),
        accelerator=Accelerator(cpu=True),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level=options.get("importance_sampling_level", "token"),
        beta=options.get("beta", 0.0),
        loss_type=options["loss_type"],
        epsilon_low=options.get("epsilon_low", 0.2),
        epsilon_high=options.get("epsilon_high", 0.2),
        use_vllm="clip_max" in options,
        vllm_importance_sampling_correction="clip_max" in options,
        current_gradient_accumulation_steps=1,
        max_completion_length=LONGEST,
        _entropy_bonus_enabled="entropy_coef" in options,
        use_adaptive_entropy=False,
        entropy_coef=options.get("entropy_coef", 0.0),
        _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (logprobs, batch["entropies"], None),
    )
    nothing = torch.zeros(len(LENGTHS), 0, dtype=torch.long)
    inputs = {
        "prompt_ids": nothing,
        "prompt_mask": nothing,
        "completion_ids": mask,
        "completion_mask": mask,
        "advantages": batch["advantages"],
        "old_per_token_logps": batch["old"],
        "ref_per_token_logps": batch["reference"],
        "importance_sampling_ratio": (batch["old"] - batch["engine"]).exp().clamp(max=options.get("clip_max", 1.0)),
        "num_items_in_batch": mask.sum(),
    }
    loss = GRPOTrainer._compute_loss(trainer, None, inputs)
    loss.backward()
    return loss.item(), logprobs.grad


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_equal_trls(batch, name):
    mine, their = CASES[name]
    options = Algorithm.model_validate({"correction": {"weights": "none"}, **mine})
    loss, gradient = ours(batch, options)
    expected, expected_gradient = theirs(batch, their)
    assert loss == pytest.approx(expected, rel=1e-9)  # float64, sums in another order
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-12)
    assert gradient.abs().sum() > 0.01

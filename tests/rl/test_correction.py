"""Rollout correction against numpy, token by token."""

import numpy as np
import pytest
import torch

from megatron_eureka.config.algorithm import Correction
from megatron_eureka.rl.correction import PARTS, correct, correction_metrics, correction_sums
from megatron_eureka.runs.metrics import reduced
from megatron_eureka.train.sums import Sums

# Samples of 2, 3 and 1 tokens.
INDEX = np.array([3, 3, 5, 5, 5, 6])
GENERATOR = np.random.default_rng(0)
ENGINE = -GENERATOR.exponential(1.0, 6)
TRAINER = ENGINE + np.array([0.05, -0.1, 0.9, 0.3, -0.2, -1.2])
RATIO = np.exp(TRAINER - ENGINE)
SAMPLES = [number == INDEX for number in (3, 5, 6)]


def tensors():
    return torch.tensor(TRAINER), torch.tensor(ENGINE), torch.tensor(INDEX)


def metrics_of(sums: dict[str, torch.Tensor]) -> dict[str, float]:
    """Means and maxima as the table of metrics has them, and quotients."""
    totals = Sums.of(sums)
    return totals.metrics() | correction_metrics(totals.numbers())


def of_samples(function) -> np.ndarray:
    """A number a sample, at each of its tokens."""
    return sum(sample * function((TRAINER - ENGINE)[sample]) for sample in SAMPLES)


PRODUCT, GEOMETRIC = of_samples(lambda d: np.exp(d.sum())), of_samples(lambda d: np.exp(d.mean()))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [("none", np.ones(6)), ("token", np.minimum(RATIO, 2.0)), ("sequence", np.minimum(PRODUCT, 2.0))],
)
def test_importance_weights_are_cut_at_the_cap(weights, expected):
    found = correct(*tensors(), Correction(weights=weights, cap=2.0))
    assert found.importance.tolist() == pytest.approx(expected.tolist())
    assert found.kept.all() and found.weights.tolist() == pytest.approx(expected.tolist())
    assert (expected >= 2.0).any() or weights == "none"  # the cap is at work here


@pytest.mark.parametrize("reject, ratio", [("token", RATIO), ("sequence", PRODUCT), ("geometric", GEOMETRIC)])
def test_what_is_out_of_bounds_has_no_weight(reject, ratio):
    found = correct(*tensors(), Correction(weights="token", reject=reject, reject_low=0.5, reject_high=1.5))
    kept = (ratio >= 0.5) & (ratio <= 1.5)
    assert found.kept.tolist() == kept.tolist() and 0 < kept.sum() < 6
    assert found.weights.tolist() == pytest.approx((np.minimum(RATIO, 2.0) * kept).tolist())


def test_extreme_differences_stay_finite():
    far = torch.tensor([-300.0, 0.0]), torch.tensor([0.0, -300.0]), torch.tensor([0, 1])
    options = Correction(weights="sequence", reject="geometric")
    found = correct(*far, options)
    assert found.weights.tolist() == [0.0, 0.0]
    assert all(value.isfinite() for value in correction_sums(*far, found, options).values())


def test_metrics():
    options = Correction(weights="token", cap=2.0, reject="geometric", reject_low=0.5, reject_high=2.0)
    sums = correction_sums(*tensors(), correct(*tensors(), options), options)
    assert set(sums) == {*PARTS, *reduced("rollout_corr")}  # ranks without rows sum by these names
    got = metrics_of(sums)
    d, ppl = TRAINER - ENGINE, lambda values: np.mean([-values[sample].mean() for sample in SAMPLES])
    product = np.array([np.exp(d[sample].sum()) for sample in SAMPLES])
    gaps = [abs(d[sample].mean()) for sample in SAMPLES]
    expected = {
        "kl": -d.mean(),
        "k3_kl": (RATIO - 1 - d).mean(),
        "chi2_token": (RATIO**2).mean() - 1,
        "chi2_seq": (product**2).mean() - 1,
        "ess": RATIO.sum() ** 2 / (RATIO**2).sum() / 6,
        "probs_diff_mean": np.abs(np.exp(TRAINER) - np.exp(ENGINE)).mean(),
        "probs_diff_max": np.abs(np.exp(TRAINER) - np.exp(ENGINE)).max(),
        "logprob_diff_mean": np.abs(d).mean(),
        "is_mean": np.minimum(RATIO, 2.0).mean(),
        "is_max": 2.0,
        "is_truncated": 1 / 6,  # exp(0.9) is 2.46
        "rejected_tokens": 1 / 6,  # exp(-1.2) is 0.30, a sample of one token
        "rejected_samples": 1 / 3,
        "training_log_ppl": ppl(TRAINER),
        "rollout_log_ppl": ppl(ENGINE),
        "log_ppl_abs_diff": np.mean(gaps),
    }
    assert got == pytest.approx({f"rollout_corr/{name}": value for name, value in expected.items()})


def test_a_response_counts_as_rejected_when_nothing_of_it_is_left():
    options = Correction(weights="none", reject="token", reject_low=0.85, reject_high=2.0)
    # Ratios 1.05, 0.90 | 2.46, 1.35, 0.82 | 0.30: a response keeps both, one of three, none of its tokens.
    sums = correction_sums(*tensors(), correct(*tensors(), options), options)
    metrics = metrics_of(sums)
    assert metrics["rollout_corr/rejected_samples"] == pytest.approx(1 / 3)
    assert metrics["rollout_corr/rejected_tokens"] == pytest.approx(3 / 6)


def test_engine_and_trainer_agreeing_change_nothing():
    same = torch.tensor(ENGINE), torch.tensor(ENGINE), torch.tensor(INDEX)
    options = Correction(weights="token", reject="token")
    found = correct(*same, options)
    assert found.weights.tolist() == [1.0] * 6
    sums = correction_sums(*same, found, options)
    metrics = metrics_of(sums)
    assert metrics["rollout_corr/kl"] == metrics["rollout_corr/k3_kl"] == metrics["rollout_corr/rejected_tokens"] == 0
    assert metrics["rollout_corr/ess"] == pytest.approx(1.0)


@pytest.mark.parametrize("reject", ["token", "sequence", "geometric"])
def test_the_bounds_of_a_rejection_belong_to_what_is_kept(reject):
    same = torch.full((3,), -1.0)  # ratios of 1
    for low, high in ((1.0, 2.0), (0.5, 1.0)):
        options = Correction(weights="none", reject=reject, reject_low=low, reject_high=high)
        assert correct(same, same, torch.tensor([0, 0, 1]), options).kept.all()

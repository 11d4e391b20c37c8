"""A GRPO update on fixed groups: on policy at first, and the same for every layout, cut and packing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from examples.digits.model import make_model
from megatron_eureka.families.source import ModelSource
from megatron_eureka.parallel import groups
from megatron_eureka.parallel.layout import Layout
from megatron_eureka.rl.step_advantages import step_advantages
from megatron_eureka.train.batch import cut_into_updates, make_update
from megatron_eureka.train.logprob_passes import (
    kl_by_sample,
    logprobs_of,
    mismatch_metrics,
    with_old_logprobs,
    with_reference,
)
from megatron_eureka.train.policy import build_policy, run_rows
from megatron_eureka.train.reference_policy import ReferencePolicy
from megatron_eureka.train.update import update
from megatron_eureka.types import FinishReason, Group, Sample, VersionSpan
from tests.model.reference import CASES, config_for, pixels
from tests.ranks import run_ranks

OPTIMIZER = {"lr": 1e-3, "schedule": "constant", "warmup_fraction": 0.0}
REWARDS = ((1.5, 0.5, 0.0), (1.0, 0.0), (0.0, 1.5))


def make_groups(info) -> list[Group]:
    """The cases as groups, with engine log-probs that are off by a little."""
    result = []
    for index, (case, rewards) in enumerate(zip(CASES, REWARDS, strict=True)):
        samples = tuple(
            Sample(response, (-5.0,) * len(response), FinishReason.STOP, (VersionSpan(0, 0),), "", {"total": reward})
            for response, reward in zip(case.responses, rewards, strict=True)
        )
        result.append(Group(case.prompt(info, index), samples))
    return result


# One of each loss, reduction, estimator, KL term and correction; combined so that every layout sees all of them.
RECIPES = {
    "grpo": {"reduction": "token_mean"},
    "gspo": {"loss": "gspo", "reduction": "sample_mean", "kl": {"coef": 0.1, "estimator": "k3"}, "entropy_coef": 0.01},
    "cispo": {
        "loss": "cispo",
        "advantage": "rloo",
        "reduction": "dr_grpo",
        "kl": {"coef": 0.1, "estimator": "k1", "place": "reward"},  # k1 has a sign
        "correction": {"weights": "sequence", "reject": "geometric", "reject_low": 0.1},
    },
}


def _two_updates(rank, world, model, layout, options):
    """Metrics of two updates on the same batch (the second one off policy), and the weights after them."""
    options = dict(options)
    limit = options.pop("max_tokens", 4096)
    old_limit = options.pop("old_max_tokens", limit)
    algorithm = RECIPES[options.pop("recipe", "grpo")]
    process_groups = groups.start(layout, seed=1, timeout_s=60)
    config = config_for(
        model,
        layout,
        freeze_vision=True,
        optimizer=OPTIMIZER,
        algorithm=algorithm,
        train={"max_tokens_per_microbatch": limit},
        **options,
    )
    policy = build_policy(
        config, ModelSource.open(config.model.path), layout, process_groups, pixels, banned=(340, 341)
    )
    batch = make_update(make_groups(policy.info), config, policy)
    policy.encoder and policy.encoder.remember(batch.images)
    batch = with_old_logprobs(policy, batch)
    if old_limit != limit:
        other = config.model_copy(
            update={"train": config.train.model_copy(update={"max_tokens_per_microbatch": old_limit})}
        )
        batch = _rearranged(policy, batch, make_update(make_groups(policy.info), other, policy))
    penalties = None
    if config.algorithm.kl.coef:
        batch = _with_another_model(policy, batch)
    if config.algorithm.kl.place == "reward":
        penalties = config.algorithm.kl.coef * kl_by_sample(policy, batch)
    advantages = step_advantages(make_groups(policy.info), config.algorithm, penalties)
    by_hand = _by_hand(policy, batch, config.algorithm) if world == 1 else None
    batch = batch.with_advantages(advantages.values)
    updates = [update(policy, batch, number, 2) for number in range(2)]
    metrics = [{**mismatch_metrics([batch]), **result} for result in updates]
    groups.stop()
    return metrics, advantages.values.tolist(), by_hand


def _by_hand(policy, batch, options) -> tuple[float, list[float]]:
    """Loss of the first update (every ratio is 1) and advantages, written out in numpy from the passes' log-probs."""
    index = np.concatenate([row.sample_index.numpy() for row in batch.rows])
    old = np.concatenate([row.old_logprobs.double().numpy() for row in batch.rows])
    ref = old
    if options.kl.coef:
        ref = np.concatenate([row.reference_logprobs.double().numpy() for row in batch.rows])

    def report(row, logprobs, entropies):
        return (logprobs.new_zeros(()), {"entropies": entropies.detach()})

    found = run_rows(policy, batch.rows, report, forward_only=True)
    entropies = np.concatenate([row["entropies"].double().numpy() for row in found])
    samples = range(len(batch.samples))
    lengths = np.array([len(sample.token_ids) for sample in batch.samples])
    d = old - ref
    penalty = np.array([0.1 * d[index == sample].sum() for sample in samples])
    rewards = [reward for group in REWARDS for reward in group]
    totals = np.array(rewards) - (penalty if options.kl.place == "reward" else 0.0)
    groups = np.split(totals, np.cumsum([len(group) for group in REWARDS])[:-1])
    engine = np.full_like(old, -5.0)  # of `make_groups`
    if options.advantage == "grpo":
        advantages = np.concatenate([(group - group.mean()) / group.std(ddof=1) for group in groups])
        weight, kl = np.minimum(np.exp(old - engine), 2.0), np.exp(-d) - 1 + d
    else:
        others = [[group[np.arange(len(group)) != i].mean() for i in range(len(group))] for group in groups]
        advantages = totals - np.concatenate(others)
        tokens = np.repeat(advantages, lengths)
        advantages = (advantages - tokens.mean()) / tokens.std()
        ratios = {sample: (old - engine)[index == sample] for sample in samples}
        weight = np.array([np.exp(ratios[sample].sum()) * (ratios[sample].mean() >= np.log(0.1)) for sample in index])
        weight, kl = np.minimum(weight, 2.0), np.zeros_like(d)
    policy_loss = -weight * advantages[index] * (old if options.loss == "cispo" else 1.0)
    loss = policy_loss + options.kl.coef * kl * (options.kl.place == "loss") - options.entropy_coef * entropies
    share = {
        "token_mean": 1.0 / lengths.sum(),
        "sample_mean": 1.0 / (len(lengths) * lengths[index]),
        "dr_grpo": 1.0 / (len(lengths) * policy.config.rollout.max_response_tokens),
    }[options.reduction]
    return float((share * loss).sum()), advantages.tolist()


def _with_another_model(policy, batch):
    """The batch with a reference whose weights are the policy's times 1.05."""
    reference = ReferencePolicy(policy)
    for weight in reference._weights.values():
        weight.mul_(1.05)
    before = {name: weight.clone() for name, weight in policy.weights().items()}
    with reference.in_place():
        batch = with_reference(policy, batch)
    assert all(torch.equal(weight, before[name]) for name, weight in policy.weights().items())
    return batch


def _rearranged(policy, batch, other):
    """`batch` with old log-probs that were made under another cut into rows, that of `other` (one rank)."""
    assert len(other.rows) > len(batch.rows)
    values = torch.cat(logprobs_of(policy, other.rows))
    numbers = torch.cat([row.sample_index for row in other.rows])

    def of(row):
        return torch.cat([values[numbers == sample] for sample in row.sample_index.unique_consecutive()])

    return replace(batch, rows=tuple(replace(row, old_logprobs=of(row)) for row in batch.rows))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(make_model(tmp_path_factory.mktemp("model") / "hf", num_layers=4, std=0.06, seed=1))


@pytest.fixture(scope="module", params=RECIPES)
def one_rank(request, model):
    return request.param, *run_ranks(1, _two_updates, model, Layout(), {"recipe": request.param})[0]


def test_the_first_update_is_on_policy_bitwise(one_rank):
    first, second = one_rank[1]
    assert first["actor/log_ratio_max"] == 0.0
    assert first["actor/pg_clipfrac"] == 0.0
    assert second["actor/log_ratio_max"] > 1e-2  # the first update moved the policy


def test_the_first_loss_and_the_advantages_are_the_formulas(one_rank):
    """Signs and terms: policy loss, correction, KL, entropy, reduction, penalties."""
    recipe, (first, _), advantages, (loss, expected) = one_rank
    assert advantages == pytest.approx(expected, rel=1e-4)  # float32 log-probs, differences of which are penalties
    assert first["actor/loss"] == pytest.approx(loss, rel=1e-4, abs=1e-6)  # float32 sums
    assert ("actor/kl_loss" in first) == (recipe != "grpo")
    if recipe == "gspo":  # every term is there to be seen
        assert abs(first["actor/loss"] - first["actor/pg_loss"]) > 1e-3


def test_under_another_cut_the_first_ratio_is_one_to_rounding(model):
    (first, _), *_ = run_ranks(1, _two_updates, model, Layout(), {"old_max_tokens": 40})[0]
    assert first["actor/log_ratio_max"] < 1e-6  # other batch sizes of the same matrix products, in float32


@pytest.mark.parametrize(
    "layout, options",
    [
        (Layout(), {"max_tokens": 40}),
        (Layout(tp=2), {}),
        (Layout(tp=2), {"sp": True, "max_tokens": 40}),
        (Layout(pp=2), {"max_tokens": 40}),
        (Layout(dp=2), {}),
        (Layout(tp=2, pp=2), {"sp": True}),
        (Layout(pp=2, vpp=2), {"max_tokens": 40}),
        (Layout(pp=2, dp=2), {"max_tokens": 40}),
    ],
    ids=str,
)
def test_every_layout_and_cut_makes_the_same_update(model, one_rank, layout, options):
    recipe, expected, expected_advantages, _ = one_rank
    ranks = run_ranks(layout.world_size, _two_updates, model, layout, {**options, "recipe": recipe})
    for metrics, advantages, _ in ranks:
        assert advantages == pytest.approx(expected_advantages, rel=1e-4)  # the penalties are float32 sums
        for got, reference in zip(metrics, expected, strict=True):  # known alike on every rank
            assert got.keys() == reference.keys()
            for name, value in reference.items():
                # Losses and ratios of size 1 in float32; Adam turns gradients that are rounding alone into full steps,
                # which the second update's numbers carry.
                assert got[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


def test_groups_are_cut_into_updates_of_whole_groups():
    def group(size):
        return Group(
            None, tuple(Sample((1,), (0.0,), FinishReason.STOP, (VersionSpan(0, 0),), "") for _ in range(size))
        )

    cut = cut_into_updates([group(4), group(4), group(4)], samples_per_update=8)
    assert [len(update) for update in cut] == [2, 1]
    assert [len(update) for update in cut_into_updates([group(4)] * 2, samples_per_update=2)] == [1, 1]
    assert cut_into_updates([], samples_per_update=8) == []

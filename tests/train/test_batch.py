"""From groups to an update's samples, weights and rows; replicas that get nothing to train on."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from examples.digits.model import make_model
from megatron_eureka.config.schema import Config
from megatron_eureka.families import PUBLISHED
from megatron_eureka.families.source import ModelSource
from megatron_eureka.parallel import groups as process
from megatron_eureka.parallel.layout import Layout
from megatron_eureka.rl.step_advantages import step_advantages
from megatron_eureka.rollout.truncation import treatment
from megatron_eureka.train.batch import UpdateBatch, cut_into_updates, make_update
from megatron_eureka.train.logprob_passes import mismatch_metrics, with_old_logprobs
from megatron_eureka.train.policy import build_policy
from megatron_eureka.train.update import update
from megatron_eureka.types import FinishReason, Group, Prompt, Sample, VersionSpan
from tests.model.reference import CASES, config_for, pixels
from tests.ranks import run_ranks


def policy_stub(dp_rank=0, row_multiple=1, **layout) -> SimpleNamespace:
    """What making rows asks of a policy."""
    info = PUBLISHED["Qwen/Qwen2.5-VL-7B-Instruct"]
    return SimpleNamespace(info=info, layout=Layout(**layout), dp_rank=dp_rank, row_multiple=row_multiple)


def text_prompt(name: str, *tokens: int) -> Prompt:
    return Prompt(name, "", (), "", tokens, tokens)


def sample(tokens, reward=0.0, cut=False, version=0) -> Sample:
    """A response whose engine log-probs are its tokens over -1000, so that each tells whose it is."""
    logprobs = tuple(-token / 1000 for token in tokens)
    return Sample(
        tuple(tokens),
        logprobs,
        FinishReason.LENGTH if cut else FinishReason.STOP,
        (VersionSpan(0, version),),
        "",
        {"total": reward},
    )


# Samples 0 to 4: 2, 4, 1, 0 and 3 tokens; 1 and 2 were cut off.
GROUPS = [
    Group(text_prompt("a", 1, 2, 3), (sample((11, 12), 1.0), sample((13, 14, 15, 16), 0.0, cut=True))),
    Group(text_prompt("b", 4, 5), (sample((17,), 2.0, cut=True), sample((), 5.0), sample((18, 19, 20), 2.0))),
]


def treated(groups: list[Group], option: str) -> list[Group]:
    """As a collector leaves truncated samples."""
    treat = treatment(option, None)
    return [replace(g, samples=tuple(treat(s) if s.truncated else s for s in g.samples)) for g in groups]


def weights_of(batch: UpdateBatch) -> list[float]:
    """The weight of each sample's tokens in the loss, from the rows; 0 for a sample without tokens."""
    weights = torch.zeros(len(batch.samples))
    for row in batch.rows:
        weights[row.sample_index] = row.token_weights
        assert torch.equal(weights[row.sample_index], row.token_weights)  # of one sample alike
    return weights.tolist()


def options(reduction="token_mean", truncated="keep", max_tokens=64) -> Config:
    return Config.model_validate(
        {
            "algorithm": {"reduction": reduction, "truncated": truncated, "advantage": "dr_grpo"},
            "train": {"max_tokens_per_microbatch": max_tokens},
        }
    )


@pytest.mark.parametrize(
    ("reduction", "truncated", "expected"),
    [
        ("token_mean", "keep", [1 / 10, 1 / 10, 1 / 10, 0, 1 / 10]),  # of 2 + 4 + 1 + 0 + 3 tokens
        ("token_mean", "penalize", [1 / 10, 1 / 10, 1 / 10, 0, 1 / 10]),  # acts on rewards alone
        ("token_mean", "mask", [1 / 5, 0, 0, 0, 1 / 5]),  # of 2 + 3
        ("sample_mean", "keep", [1 / 8, 1 / 16, 1 / 4, 0, 1 / 12]),  # four samples with tokens
        ("sample_mean", "mask", [1 / 4, 0, 0, 0, 1 / 6]),  # two
    ],
)
def test_weights_count_what_is_trained(reduction, truncated, expected):
    groups = GROUPS if truncated == "penalize" else treated(GROUPS, truncated)
    batch = make_update(groups, options(reduction, truncated), policy_stub())
    assert weights_of(batch) == pytest.approx(expected, rel=1e-6, abs=0)  # float32 quotients
    # Masked samples still count in their group's baseline: (1 + 0) / 2 and (2 + 5 + 2) / 3.
    advantages = step_advantages(groups, options(reduction, truncated).algorithm).values
    assert advantages.tolist() == [0.5, -0.5, -1.0, 2.0, -1.0]
    assert [list(s.token_ids) for s in batch.samples] == [[11, 12], [13, 14, 15, 16], [17], [], [18, 19, 20]]


def test_tokens_that_are_not_trained_weigh_nothing():
    first, second = GROUPS[1].samples[0], GROUPS[1].samples[2]
    half = replace(second, trained=(True, False, True))
    batch = make_update([Group(text_prompt("b", 4, 5), (first, half))], options(), policy_stub())
    (row,) = batch.rows
    assert row.micro_batch.targets.tolist() == [17, 18, 19, 20]
    torch.testing.assert_close(row.token_weights, torch.tensor([1 / 3, 1 / 3, 0.0, 1 / 3]))  # of 1 + 2 tokens


@pytest.mark.parametrize("reduction", ["token_mean", "sample_mean"])
def test_all_masked_is_a_loss_of_zero_and_no_nan(reduction):
    cut = [Group(text_prompt("a", 1, 2), (sample((3, 4), 1.0, cut=True), sample((5,), 0.0, cut=True)))]
    batch = make_update(treated(cut, "mask"), options(reduction, "mask"), policy_stub())
    assert weights_of(batch) == [0.0, 0.0]
    assert len(batch.rows[0].micro_batch.targets) == 3


def test_a_group_without_a_token_has_a_row_without_targets():
    batch = make_update([Group(text_prompt("a", 1, 2), (sample(()), sample(())))], options(), policy_stub())
    (row,) = batch.rows
    packed = row.micro_batch
    assert (packed.token_ids.tolist(), len(packed.targets), packed.num_tokens) == ([1, 2], 0, 2)
    assert row.engine_logprobs.shape == row.token_weights.shape == row.stale.shape == (0,)


@pytest.mark.parametrize("max_tokens", [7, 9, 64])
def test_engine_logprobs_follow_the_rows_targets(max_tokens):
    """The limits split group a in two, give both groups a row of their own, or put b behind the longer a."""
    batch = make_update(GROUPS[::-1], options(max_tokens=max_tokens), policy_stub())
    seen = []
    for row in batch.rows:
        targets = row.micro_batch.targets
        assert row.engine_logprobs.dtype == torch.float32
        torch.testing.assert_close(row.engine_logprobs, targets / -1000)
        for number, token in zip(row.sample_index.tolist(), targets.tolist(), strict=True):
            assert token in batch.samples[number].token_ids
        seen += targets.tolist()
    assert sorted(seen) == list(range(11, 21))  # every response token once


def test_samples_of_older_weights_are_stale():
    group = Group(text_prompt("a", 1), (sample((2,), version=3), sample((3,), version=4)))

    def flags(version):
        (row,) = make_update([group], options(), policy_stub(), version).rows
        return row.stale.tolist()

    assert flags(3) == [False, False]
    assert flags(4) == [True, False]
    assert flags(5) == [True, True]


def test_updates_take_whole_groups_in_order():
    def group(name, size):
        return Group(text_prompt(name, 1), tuple(sample((2,)) for _ in range(size)))

    def names(updates):
        return [[group.prompt.id for group in update] for update in updates]

    four = [group(name, 2) for name in "abcd"]
    assert names(cut_into_updates(four, 4)) == [["a", "b"], ["c", "d"]]
    assert names(cut_into_updates(four, 6)) == [["a", "b", "c"], ["d"]]
    assert names(cut_into_updates(four, 100)) == [["a", "b", "c", "d"]]
    assert names(cut_into_updates(four, 1)) == [["a"], ["b"], ["c"], ["d"]]  # a group is never cut
    assert names(cut_into_updates([group("a", 1), group("b", 3), group("c", 1)], 4)) == [["a", "b"], ["c"]]


def test_a_replica_without_work_gets_an_empty_row():
    first, second = (
        make_update(GROUPS[:1], options(), policy_stub(dp_rank, row_multiple=4, dp=2)) for dp_rank in (0, 1)
    )
    assert [len(row.micro_batch.targets) for row in first.rows] == [6]
    (row,) = second.rows  # as many rows on every replica: they step together
    packed = row.micro_batch
    assert (packed.num_tokens, len(packed.token_ids), len(packed.targets), len(packed.images)) == (0, 4, 0, 0)
    assert row.engine_logprobs.shape == row.token_weights.shape == (0,)


def test_rows_of_a_pipeline_have_one_length_and_whole_rounds():
    batch = make_update(GROUPS, options(max_tokens=9), policy_stub(pp=2))
    assert [row.micro_batch.num_tokens for row in batch.rows] == [9, 6]
    assert [len(row.micro_batch.token_ids) for row in batch.rows] == [9, 9]
    batch = make_update(GROUPS[:1], options(), policy_stub(pp=2, vpp=2))
    assert [row.micro_batch.num_tokens for row in batch.rows] == [9, 0]  # two stages want two rows at once
    assert [len(row.micro_batch.token_ids) for row in batch.rows] == [9, 9]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(make_model(tmp_path_factory.mktemp("model") / "hf", num_layers=2, std=0.06, seed=1))


def one_group(info, cut) -> list[Group]:
    """The case with text alone as one group; its second sample was drawn by older weights."""
    first, second = CASES[1].responses
    return [Group(CASES[1].prompt(info, 1), (sample(first, 1.0, cut), sample(second, 0.0, cut, version=-1)))]


def _update(rank, world, model, truncated):
    """Old log-probs and metrics of one update of a single group, and a few of the weights after it."""
    layout = Layout(dp=world)
    process_groups = process.start(layout, seed=1, timeout_s=60)
    optimizer = {"lr": 1e-3, "schedule": "constant", "warmup_fraction": 0.0}
    algorithm = {"truncated": truncated, "reduction": "token_mean"}
    config = config_for(model, layout, freeze_vision=True, optimizer=optimizer, algorithm=algorithm)
    policy = build_policy(config, ModelSource.open(config.model.path), layout, process_groups, pixels)
    groups = treated(one_group(policy.info, cut=truncated == "mask"), truncated)
    batch = make_update(groups, config, policy)
    before = {name: weight.detach().clone() for name, weight in policy.weights().items()}
    batch = with_old_logprobs(policy, batch).with_advantages(step_advantages(groups, config.algorithm).values)
    metrics = {**mismatch_metrics([batch]), **update(policy, batch, 0, 1)}
    moved = max(float((weight - before[name]).abs().max()) for name, weight in policy.weights().items())
    process.stop()
    return [row.old_logprobs for row in batch.rows], [row.sample_index for row in batch.rows], metrics, moved


def test_an_update_with_an_idle_replica_is_that_of_one_rank(model):
    ((old, index, expected, moved),) = run_ranks(1, _update, model, "keep")
    busy, idle = run_ranks(2, _update, model, "keep")
    assert [len(values) for values in idle[0]] == [0]
    assert moved > 1e-4 and idle[3] == busy[3] == pytest.approx(moved, rel=1e-3)  # Adam's first step is about lr
    for metrics in (busy[2], idle[2]):
        # The same sums in float32; only the order of the gradient's reduction may differ.
        assert metrics == pytest.approx(expected, rel=1e-5, abs=1e-6)
    # Stale samples keep what the engine said when it drew them, the others get the trainer's own.
    stale = torch.tensor([-token / 1000 for token in CASES[1].responses[1]])
    assert torch.equal(old[0][index[0] == 1], stale)
    assert (old[0][index[0] == 0] < -2).all()  # a random model of 384 tokens: about -ln 384 = -6


def _measured(rank, world, model, engine, version, rollout=None):
    """Old log-probs and totals of the group whose samples' engine log-probs are `engine`; the second one is older."""
    layout = Layout(dp=world)
    process_groups = process.start(layout, seed=1, timeout_s=60)
    config = config_for(model, layout, freeze_vision=True, rollout=rollout or {})
    policy = build_policy(config, ModelSource.open(config.model.path), layout, process_groups, pixels)
    (group,) = one_group(policy.info, cut=False)
    fresh, other = (
        replace(s, engine_logprobs=tuple(e[: len(s.token_ids)])) for s, e in zip(group.samples, engine, strict=True)
    )
    batch = make_update(
        [replace(group, samples=(fresh, replace(other, versions=(VersionSpan(0, version),))))], config, policy
    )
    batch = with_old_logprobs(policy, batch)
    process.stop()
    (row,) = batch.rows
    return row.old_logprobs, row.correction, row.sample_index, batch.mismatch.numbers()


def test_samples_of_older_weights_and_tokens_nobody_drew_tell_nothing_of_the_mismatch(model):
    nan, num = float("nan"), len(CASES[1].responses[0])
    engine = ([-6.0] * (num - 1) + [nan], [-1.0] * 50)
    ((old, weights, index, totals),) = run_ranks(1, _measured, model, engine, -1)
    assert totals["tokens"] == num - 1 and totals["samples"] == 1
    assert (old[index == 1] == -1.0).all()  # drawn by older weights: the engine's
    assert (weights[index == 1] == 1.0).all() and weights[index == 0][-1] == 1.0
    assert old.isfinite().all() and weights.isfinite().all()
    ((_, _, _, both),) = run_ranks(1, _measured, model, engine, 0)
    assert both["tokens"] == num - 1 + int((index == 1).sum()) and both["samples"] == 2


@pytest.mark.parametrize("rollout", [{"top_p": 0.9}, {"top_k": 20}], ids=str)
def test_within_a_nucleus_samples_of_older_weights_start_at_a_ratio_of_one(model, rollout):
    """There the engine's -1.0 are not the policy's log-probs, and a ratio to them would be off for an unchanged one."""
    engine = [-6.0] * 50, [-1.0] * 50
    ((fresh, *_),) = run_ranks(1, _measured, model, engine, 0, rollout)
    ((old, _, index, totals),) = run_ranks(1, _measured, model, engine, -1, rollout)
    assert torch.equal(old, fresh) and (index == 1).any()
    assert totals["samples"] == 1


def test_an_update_of_masked_samples_alone_moves_nothing(model):
    ((_, _, metrics, moved),) = run_ranks(1, _update, model, "mask")
    assert moved == 0.0
    assert metrics["actor/loss"] == metrics["actor/grad_norm"] == 0.0
    assert all(value == value for value in metrics.values())  # no NaN

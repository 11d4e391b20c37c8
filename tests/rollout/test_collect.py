"""How a step's batch is filled: shares, seeds, filter and refill, surplus, refusals, controls, resuming."""

import logging
import math
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
import torch

from megatron_eureka.config.schema import Config, Data
from megatron_eureka.data.stream import PromptStream
from megatron_eureka.engines.protocol import Rejection, SamplingOptions, sampling_seed
from megatron_eureka.log import logger
from megatron_eureka.rollout.collect import Collector, shuffled_rewards, submit
from megatron_eureka.types import FinishReason, Group, Sample, VersionSpan
from tests.ranks import run_ranks
from tests.rollout.fakes import CountingScorer, Images, RecordingEngine, prompt


def make_collector(labels, engine=None, shuffle=False, rollout=None, reward=None, seed=0, **algorithm) -> Collector:
    """A collector over one prompt a label: of 4 responses as many are right as the label says."""
    config = Config.model_validate(
        {
            "rollout": {"prompts_per_step": 3, "samples_per_prompt": 4, **(rollout or {})},
            "reward": reward or {},
            "train": {"seed": seed},
            "algorithm": algorithm,
        }
    )
    prompts = [prompt(number, str(label)) for number, label in enumerate(labels)]
    stream = PromptStream(len(prompts), seed, shuffle)
    return Collector(config, engine or RecordingEngine(), CountingScorer(), prompts, stream)


def ids(groups) -> list[str]:
    return [group.prompt.id for group in groups]


def without_texts(results):
    return [
        result
        if isinstance(result, Rejection)
        else replace(result, samples=tuple(replace(sample, text="") for sample in result.samples))
        for result in results
    ]


def on_one_rank(body):
    """What `body()` returns on a rank of its own: collecting is a collective."""
    return run_ranks(1, lambda rank, world: body())[0]


@pytest.mark.parametrize(("world", "engines"), [(2, 2), (2, 1), (4, 2)])
def test_engines_share_the_prompts_and_all_ranks_get_all_groups(world, engines):
    prompts = [prompt(number, "2", names=["a", "b"] if number == 3 else []) for number in range(5)]
    seeds = [(10 * number, 10 * number + 1) for number in range(5)]
    timed = []

    @contextmanager
    def timer(name):
        timed.append(name)
        yield

    def body(rank, world):
        engine = RecordingEngine(rank * engines // world, engines, rejected={"p1"})  # over consecutive ranks
        scorer = CountingScorer()
        results = engine.sample(prompts, seeds, SamplingOptions(top_k=7), partial(submit, scorer), timer=timer)
        return results, engine.calls, engine.sampling, scorer.calls, timed

    ranks = run_ranks(world, body)
    results = ranks[0][0]
    assert all(other[0] == without_texts(results) for other in ranks[1:])  # texts are for the rank that logs
    assert isinstance(results[1], Rejection) and results[1].prompt_id == "p1"
    for number in (0, 2, 3, 4):
        group = results[number]
        assert group.prompt == prompts[number]
        assert [sample.token_ids[0] for sample in group.samples] == list(seeds[number])
        assert [sample.rewards["accuracy"] for sample in group.samples] == [1.0, 1.0]
        assert [sample.text for sample in group.samples] == ["0", "1"]
    for rank, (_, calls, sampling, scored, names) in enumerate(ranks):
        share = list(range(rank * engines // world, 5, engines))
        (requests,) = calls
        assert [request.prompt for request in requests] == [prompts[number] for number in share]
        assert [request.seeds for request in requests] == [seeds[number] for number in share]
        images = {request.prompt.id: request.images for request in requests}
        assert images.get("p3", ("image a", "image b")) == ("image a", "image b")
        assert sampling == [SamplingOptions(top_k=7)]
        assert names == ["rollout", "reward"]
        if rank % (world // engines):  # the first rank of an engine scores what the others have drawn as well
            assert scored == []
        else:
            answered = [number for number in share if number != 1]
            assert scored == [([f"question {number}"] * 2, ["0", "1"], ["2"] * 2) for number in answered]


def test_an_image_that_breaks_late_ends_the_job_or_refuses_its_prompt():
    prompts = [prompt(0, "2", ["fine"]), prompt(1, "2", ["fine", "torn"]), prompt(2, "2")]
    arguments = prompts, [(0,), (1,), (2,)], SamplingOptions()

    def body():
        engine = RecordingEngine(images=Images(broken={"torn"}))
        with pytest.raises(ValueError, match="data.jsonl:2: torn is not a readable image.*data.on_error"):
            engine.sample(*arguments)
        return engine.sample(*arguments, reject_broken=True), engine.asked

    results, asked = on_one_rank(body)
    assert asked == [["p0", "p2"]]
    assert results[1] == Rejection("p1", "data.jsonl:2: torn is not a readable image")
    assert ids([results[0], results[2]]) == ["p0", "p2"]


def test_two_engines_fill_the_same_batch_as_one():
    def body(rank, world):
        collector = make_collector([0, 2, 4, 1, 3, 2, 2], RecordingEngine(rank, world))
        return [ids(collector.collect(step).groups) for step in (1, 2)]

    (alone,) = run_ranks(1, body)
    first, second = run_ranks(2, body)
    assert first == second == alone


def test_seeds_name_run_step_place_and_sample():
    def body():
        collector = make_collector([2, 2, 2], rollout={"prompts_per_step": 4}, seed=7)
        for step in (1, 2):
            collector.collect(step)
        return collector.engine.asked, [[request.seeds for request in call] for call in collector.engine.calls]

    asked, seeds = on_one_rank(body)
    assert asked == [["p0", "p1", "p2", "p0"], ["p1", "p2", "p0", "p1"]]  # each step has a prompt twice
    for step, places in ((1, range(4)), (2, range(4, 8))):  # of the draws, counted over epochs
        expected = [tuple(sampling_seed(7, step, place, sample) for sample in range(4)) for place in places]
        assert seeds[step - 1] == expected
    assert len({seed for call in seeds for request in call for seed in request}) == 2 * 4 * 4


def test_seeds_do_not_repeat_over_the_rounds_of_a_step():
    def body():
        collector = make_collector([0, 2], rollout={"prompts_per_step": 2}, seed=3)  # half of each round is dropped
        collector.collect(1)
        return [seed for call in collector.engine.calls for request in call for seed in request.seeds]

    seeds = on_one_rank(body)
    assert len(seeds) == len(set(seeds)) == 2 * 2 * 4


def test_a_batch_is_filled_to_the_brim_and_what_is_left_starts_the_next():
    def body():
        collector = make_collector([0, 2, 4, 2, 2, 2])
        steps = [collector.collect(step) for step in (1, 2)]
        return [(ids(s.groups), ids(s.generated), s.counters) for s in steps], ids(collector.surplus)

    (first, second), surplus = on_one_rank(body)
    # A round of three, of which p1 passes, then p3 p4 p5, which pass: one more than there is room for.
    counters = {"filter/stale": 0, "filter/dropped_hard": 1, "filter/dropped_easy": 1, "filter/buffer": 1}
    counters |= {"rollout/rounds": 2}

    def of_step(kept, prompts):
        return counters | {"filter/kept": kept, "rollout/prompts": prompts}

    assert first == (["p1", "p3", "p4"], ["p0", "p1", "p2", "p3", "p4", "p5"], of_step(4, 6))
    # Two are missing: p0 p1, then p2 p3 p4.
    assert second == (["p5", "p1", "p3"], ["p0", "p1", "p2", "p3", "p4"], of_step(3, 5))
    assert surplus == ["p4"]


def test_rounds_draw_what_is_missing_by_the_steps_own_keep_rate():
    def sizes(labels, wanted=8, **options):
        def body():
            collector = make_collector(labels, rollout={"prompts_per_step": wanted}, **options)
            collector.collect(1)
            return [len(call) for call in collector.engine.asked], len(collector.surplus)

        return on_one_rank(body)

    assert sizes([2] * 9) == ([8], 0)
    # 6 of 8 pass: 2 are missing, so 1.25 x 2 x 8 / 6 = 3.3 are drawn
    assert sizes([2] * 6 + [0] * 2 + [2] * 9) == ([8, 4], 2)
    # 1 of 8, then 1 of 16: never more than a whole round, and then by all rounds of the step
    assert sizes([2] + [0] * 14 + [2] * 9) == ([8, 8, 8], 2)
    assert sizes([0] * 8 + [2] * 9) == ([8, 8], 0)  # nothing passed: a whole round again


def test_a_refused_prompt_does_not_make_the_later_steps_train_on_what_an_older_policy_drew():
    def body():
        collector = make_collector(
            [2] * 40, RecordingEngine(rejected={"p3"}), rollout={"prompts_per_step": 16}, filter={"enabled": False}
        )
        ages = []
        for step in range(1, 6):
            collector.engine.policy_version = step - 1
            ages.append(sum(step - 1 - group.policy_version for group in collector.collect(step).groups))
        return ages

    # p3 comes in the first and in the third step; a refill for it leaves one group over
    assert on_one_rank(body) == [0, 1, 0, 1, 0]


def test_the_filter_compares_counts_with_inclusive_bounds():
    def body():
        options = {"prompts_per_step": 4, "samples_per_prompt": 10}
        collector = make_collector([0, 1, 9, 10], rollout=options, filter={"refill": False})
        return collector.collect(1)

    collected = on_one_rank(body)  # bounds 0.1 and 0.9
    assert ids(collected.groups) == ["p1", "p2"]


def test_without_the_filter_everything_is_trained_on():
    collected = on_one_rank(lambda: make_collector([0, 4, 2], filter={"enabled": False}).collect(1))
    assert ids(collected.groups) == ["p0", "p1", "p2"]
    assert (collected.counters["filter/kept"], collected.counters["rollout/rounds"]) == (3, 1)


@pytest.mark.parametrize(
    ("max_staleness", "version", "stale"), [(0, 0, 0), (0, 1, 1), (1, 1, 0), (1, 2, 1), (3, 3, 0), (3, 4, 1)]
)
def test_surplus_of_too_old_a_policy_is_dropped_and_counted(max_staleness, version, stale):
    def body():
        collector = make_collector([0, 2, 2, 2, 2, 2], filter={"max_staleness": max_staleness})
        first = collector.collect(1)
        waiting = ids(collector.surplus)
        collector.engine.policy_version = version
        second = collector.collect(2)
        return first.counters, waiting, second

    counters, waiting, second = on_one_rank(body)
    assert counters["filter/stale"] == 0
    assert waiting == ["p4"]
    assert second.counters["filter/stale"] == stale
    assert ids(second.groups) == (["p5", "p1", "p2"] if stale else ["p4", "p5", "p1"])
    assert [group.policy_version for group in second.groups] == [version if stale else 0, version, version]


def test_without_refill_a_step_trains_on_what_one_round_gave():
    def body():
        collector = make_collector([0, 2, 4, 2, 2, 2], filter={"refill": False})
        return collector.collect(1), collector.surplus

    collected, surplus = on_one_rank(body)
    assert ids(collected.groups) == ["p1"] and surplus == []
    assert collected.counters["rollout/rounds"] == 1


def test_without_refill_a_round_that_leaves_nothing_is_followed_by_another():
    collected = on_one_rank(lambda: make_collector([0, 0, 4, 2, 0, 2], filter={"refill": False}).collect(1))
    assert ids(collected.groups) == ["p3", "p5"]
    assert collected.counters["rollout/rounds"] == 2


def test_rounds_are_limited_and_a_batch_may_stay_short():
    collected = on_one_rank(lambda: make_collector([2, 0, 0] + [0] * 9, filter={"max_rounds": 3}).collect(1))
    assert ids(collected.groups) == ["p0"]
    assert collected.counters["rollout/rounds"] == 3


def test_a_step_with_nothing_to_train_on_names_the_bounds_and_what_fell_where():
    def body():
        engine = RecordingEngine(rejected={"p2"})
        bounds = {"lower": 0.25, "upper": 0.75, "max_rounds": 2}
        collector = make_collector([0, 4, 2, 0, 0, 4], engine, filter=bounds)
        with pytest.raises(RuntimeError) as raised:
            collector.collect(5)
        return str(raised.value), engine.asked

    message, asked = on_one_rank(body)
    assert asked == [["p0", "p1", "p2"], ["p3", "p4", "p5"]]
    for part in (
        "Step 5",
        "none of 6 groups in 2 rounds",
        "3 were below algorithm.filter.lower 0.25",
        "2 above algorithm.filter.upper 0.75",
        "1 were refused",
    ):
        assert part in message


def test_refused_prompts_are_counted_and_logged_and_others_take_their_place():
    def body():
        lines = []
        handler = logging.Handler(logging.WARNING)
        handler.emit = lambda record: lines.append(record.getMessage())
        logger.addHandler(handler)
        collected = make_collector([2] * 6, RecordingEngine(rejected={"p1"})).collect(4)
        return collected, lines

    collected, lines = on_one_rank(body)
    assert ids(collected.groups) == ["p0", "p2", "p3"]
    assert collected.counters["rollout/refused"] == 1
    assert collected.counters["rollout/prompts"] == 5  # asked for, the refused one among them
    assert lines == ["step 4: prompt p1 was refused: 12 tokens here, 13 there"]


def test_broken_images_are_refused_where_bad_input_is_skipped():
    def body():
        collector = make_collector([2] * 6)
        collector.config = collector.config.model_copy(update={"data": Data(on_error="skip")})
        collector.prompts[1] = prompt(1, "2", ["torn"])
        collector.engine.images = Images(broken={"torn"})
        return collector.collect(1)

    collected = on_one_rank(body)
    assert ids(collected.groups) == ["p0", "p2", "p3"]
    assert collected.counters["rollout/refused"] == 1


@pytest.mark.parametrize("truncated", ["keep", "mask", "penalize"])
def test_penalized_responses_score_nothing_and_the_filter_sees_that(truncated):
    def body():
        engine = RecordingEngine(truncated={0, 1})
        return make_collector([2, 3, 4], engine, truncated=truncated, filter={"refill": False}).collect(1)

    collected = on_one_rank(body)
    if truncated != "penalize":
        assert ids(collected.groups) == ["p0", "p1"]
        assert [s.rewards["accuracy"] for s in collected.groups[0].samples] == [1.0, 1.0, 0.0, 0.0]
        return
    assert ids(collected.groups) == ["p1", "p2"]  # p0's two right answers are the ones cut off
    assert collected.counters["filter/dropped_hard"] == 1
    first = [sample.rewards for sample in collected.groups[1].samples]
    assert first[:2] == [{"accuracy": 0.0, "format": 0.0, "total": 0.0}] * 2
    assert [rewards["accuracy"] for rewards in first[2:]] == [1.0, 1.0]


def test_overwritten_responses_end_with_the_end_token_and_keep_their_rewards():
    def body():
        collector = make_collector([2, 3, 4], RecordingEngine(truncated={1}), truncated="overwrite")
        collector.end_token_id = 99
        return collector.collect(1)

    group = on_one_rank(body).groups[0]
    plain = on_one_rank(lambda: make_collector([2, 3, 4], RecordingEngine(truncated={1})).collect(1)).groups[0]
    assert group.samples[1].token_ids == (99,) and group.samples[1].truncated
    assert math.isnan(group.samples[1].engine_logprobs[0])  # the engine drew another token
    assert [s.token_ids for i, s in enumerate(group.samples) if i != 1] == [
        s.token_ids for i, s in enumerate(plain.samples) if i != 1
    ]
    assert [s.rewards for s in group.samples] == [s.rewards for s in plain.samples]


def totals(collected) -> list[float]:
    return [sample.rewards["total"] for group in collected.generated for sample in group.samples]


def test_shuffled_rewards_are_the_same_ones_in_another_order():
    def collect(shuffle, seed=0, step=1):
        options = {"rollout": {"prompts_per_step": 6}, "reward": {"shuffle": shuffle}, "filter": {"enabled": False}}
        return make_collector([0, 1, 2, 3, 4, 2], seed=seed, **options).collect(step)

    def body():
        return collect(False), collect(True), collect(True), collect(True, seed=1), collect(True, step=2)

    plain, shuffled, again, other_seed, other_step = on_one_rank(body)
    order = totals(plain)
    assert len(set(order)) == 24  # no two responses alike, so an order is known by its totals
    assert Counter(totals(shuffled)) == Counter(order) and totals(shuffled) != order
    assert totals(again) == totals(shuffled)
    assert Counter(totals(other_seed)) == Counter(order) and totals(other_seed) != totals(shuffled)
    assert totals(other_step) != totals(shuffled)
    own = {sample.rewards["total"]: sample.rewards for group in plain.generated for sample in group.samples}
    for before, after in zip(plain.generated, shuffled.generated, strict=True):
        assert (before.prompt, len(before.samples)) == (after.prompt, len(after.samples))
        for old, new in zip(before.samples, after.samples, strict=True):
            assert (old.token_ids, old.text) == (new.token_ids, new.text)
            assert new.rewards == own[new.rewards["total"]]  # the components of one response stay together


def test_each_round_of_a_step_is_shuffled_in_an_order_of_its_own():
    def body():
        engine = RecordingEngine(rejected={"p0"})  # leaves two groups, and three are wanted
        return make_collector([2] * 6, engine, reward={"shuffle": True}, filter={"enabled": False}).collect(1)

    collected = on_one_rank(body)
    assert collected.counters["rollout/rounds"] == 2
    rounds = totals(collected)[:8], totals(collected)[8:]
    first, second = (sorted(range(8), key=values.__getitem__) for values in rounds)
    assert first != second


def test_rewards_are_shuffled_over_groups_and_not_within_them():
    def sample(reward):
        return Sample((1,), (0.0,), FinishReason.STOP, (VersionSpan(0, 0),), "", {"total": reward})

    groups = [Group(prompt(i), tuple(sample(float(i)) for _ in range(8))) for i in range(8)]
    shuffled = shuffled_rewards(groups, (0, 1, 0))
    assert all(len({s.rewards["total"] for s in group.samples}) > 1 for group in shuffled)


def test_a_restored_collector_goes_on_exactly(tmp_path):
    labels = [0, 2, 4, 2, 1, 3, 2, 0, 3, 2, 2]

    def run(collector, steps):
        results = []
        for step in steps:
            collector.engine.policy_version = step - 1
            collected = collector.collect(step)
            seeds = [[request.seeds for request in call] for call in collector.engine.calls]
            results.append((collected, seeds, collector.engine.asked, list(collector.surplus)))
            collector.engine.calls.clear()
        return results

    def strip(results):
        """Without the rewards' totals: they number all responses that a scorer has seen."""

        def drawn(groups):
            return [(group.prompt.id, [s.token_ids for s in group.samples]) for group in groups]

        return [
            (drawn(collected.groups), drawn(collected.generated), collected.counters, seeds, asked, drawn(surplus))
            for collected, seeds, asked, surplus in results
        ]

    def body():
        whole = make_collector(labels, shuffle=True, seed=0)
        first = run(whole, [1])
        torch.save(whole.state_dict(), tmp_path / "state.pt")
        rest = run(whole, [2, 3])
        restored = make_collector(labels, shuffle=True, seed=0)
        restored.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))  # as a checkpoint is read
        surplus = restored.surplus
        return first, rest, run(restored, [2, 3]), surplus

    first, rest, resumed, surplus = on_one_rank(body)
    assert surplus and surplus == first[-1][3]  # there is something to take over, rewards included
    assert ids(rest[0][0].groups)[: len(surplus)] == ids(surplus)  # and it is trained on first
    assert strip(resumed) == strip(rest)

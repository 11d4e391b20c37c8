"""Group-relative policy optimisation: the loop, and the verbs that it is made of."""

from __future__ import annotations

import time

import torch

from megatron_eureka.config.schema import Config, Rollout, Train
from megatron_eureka.families.source import ModelSource
from megatron_eureka.rl.step_advantages import step_advantages
from megatron_eureka.runs.metrics import over_updates
from megatron_eureka.runs.rollouts import write_rollouts
from megatron_eureka.train.batch import cut_into_updates, make_update
from megatron_eureka.train.engine_check import check_engine
from megatron_eureka.train.evaluation import evaluate, lacks_evaluation
from megatron_eureka.train.export import export
from megatron_eureka.train.logprob_passes import kl_by_sample, mismatch_metrics, with_old_logprobs, with_reference
from megatron_eureka.train.rollout_metrics import (
    advantage_metrics,
    performance,
    rollout_metrics,
    throughput,
    vision_counts,
    warn_of_mismatch,
)
from megatron_eureka.train.session import Session, engine_turn, open_session, reference_turn
from megatron_eureka.train.step import Step
from megatron_eureka.train.sums import over_ranks
from megatron_eureka.train.update import update


def train(config: Config, source: ModelSource, name: str) -> None:
    """Train a model by GRPO; called on every rank of the job.

        prompts -> collect -> pack -> log-probs -> advantages -> update -> push weights -> log -> evaluate / save

    What takes turns with the trainer on the GPU stands in a `with`; `push_weights` wakes the engines' weights as well.

    Raises:
        ValueError: bad input, with its remedy.
        RuntimeError: the run cannot go on (an engine died, a loss is not finite, nothing passes the filter).
    """
    session = open_session(config, source, name)
    run = session.run
    if run.step == 0 and lacks_evaluation(session, 0):
        with engine_turn(session):
            evaluate(session, 0)
    for number in run.steps():
        step = Step(session, number)
        with engine_turn(session):
            collect(step)
        make_batches(step)
        compute_old_logprobs(step)
        with reference_turn(session):
            compute_reference_logprobs(step)
        compute_advantages(step)
        update_policy(step)
        push_weights(step)
        log(step)
        if run.is_due(number, config.evaluation.every) and lacks_evaluation(session, number):
            with engine_turn(session):
                evaluate(session, number)
        if run.is_due(number, config.checkpoint.every):
            save(session, number)
    if lacks_evaluation(session, config.train.steps):
        with engine_turn(session):
            evaluate(session, config.train.steps)
    finish(session)


def collect(step: Step) -> None:
    """Generate, score and filter until the step's batch is full."""
    step.collected = step.session.collector.collect(step.number)


def make_batches(step: Step) -> None:
    """Rows of each update of the step; encodes the step's images."""
    run = step.session.run
    with run.timers("pack"):
        of_updates = cut_into_updates(step.collected.groups, run.config.train.samples_per_update)
        version = step.session.engine.policy_version
        step.batches = [make_update(groups, run.config, run.policy, version) for groups in of_updates]
        if run.policy.encoder is not None:
            images = [image for batch in step.batches for image in batch.images]
            step.images_asked = run.policy.encoder.remember(images)


def compute_old_logprobs(step: Step) -> None:
    """Log-probs of all updates' rows under the weights that the step starts from.

    At the first step they are held against the engine's; see `check_engine` for what it raises.
    """
    session, run = step.session, step.session.run
    with run.timers("old_logprob"):
        step.batches = [with_old_logprobs(run.policy, batch) for batch in step.batches]
    if not session.compared:
        num_tokens = sum(batch.mismatch.numbers()["tokens"] for batch in step.batches)
        difference = mismatch_metrics(step.batches)["rollout_corr/logprob_diff_mean"]
        session.compared = check_engine(difference, num_tokens, run.config)


def compute_reference_logprobs(step: Step) -> None:
    """Log-probs of all updates' rows under the reference, whose turn it is; nothing without a KL term."""
    if step.session.reference is not None:
        step.batches = [with_reference(step.session.run.policy, batch) for batch in step.batches]


def compute_advantages(step: Step) -> None:
    """Advantages of the step's samples from their rewards, less the KL penalty where it is one of the reward."""
    run, options = step.session.run, step.session.run.config.algorithm
    penalties = None
    if step.session.reference is not None and options.kl.place == "reward":
        penalties = options.kl.coef * torch.cat([kl_by_sample(run.policy, batch) for batch in step.batches])
    step.advantages = step_advantages(step.collected.groups, options, penalties)
    of_batches = step.advantages.values.split([len(batch.samples) for batch in step.batches])
    pairs = zip(step.batches, of_batches, strict=True)
    step.batches = [batch.with_advantages(values) for batch, values in pairs]


def update_policy(step: Step) -> None:
    """One optimizer step a batch."""
    run = step.session.run
    planned = updates_per_step(run.config.rollout, run.config.train)
    with run.timers("update"):
        for batch in step.batches:
            # A step takes its planned share of the schedule, however many groups the filter left.
            place = planned * (run.step + len(step.updates) / len(step.batches))
            step.updates.append(update(run.policy, batch, place, planned * run.config.train.steps))
            run.updates += 1


def updates_per_step(rollout: Rollout, train: Train) -> int:
    """Optimizer steps of a step whose batch is full."""
    samples = rollout.prompts_per_step * rollout.samples_per_prompt
    return max(1, samples // train.samples_per_update)


def push_weights(step: Step) -> None:
    """Give the new weights to the engines; their own stay awake for `engine_turn`."""
    session = step.session
    with session.run.timers("sync"):
        session.engine.wake(("weights",))
        session.engine.update_weights(session.run.weight_source)


def log(step: Step) -> None:
    """Metrics, rollouts and the console line of a step."""
    seconds = time.perf_counter() - step.started
    session, run, collected = step.session, step.session.run, step.collected
    metrics = over_updates(step.updates)
    metrics |= mismatch_metrics(step.batches)
    metrics |= rollout_metrics(collected, session.engine.policy_version)
    metrics |= advantage_metrics(step.advantages, run.config.algorithm)
    warn_of_mismatch(metrics, run.config.algorithm.correction.alarm)
    metrics |= over_ranks(vision_counts(run.policy, step.images_asked) | step_counts(session))
    metrics["rollout/policy_version"] = float(session.engine.policy_version)
    metrics |= performance(collected, seconds)
    metrics |= throughput(run.policy, [row.micro_batch for batch in step.batches for row in batch.rows], run.timers)
    console = {
        "reward": f"{metrics['reward/total/mean']:.3f}",
        "accuracy": f"{metrics['reward/accuracy/mean']:.3f}",
        "kept": f"{len(collected.groups)}",
        "length": f"{metrics['response_length/mean']:.0f}",
        "loss": f"{metrics['actor/loss']:+.4f}",
        "grad": f"{metrics['actor/grad_norm']:.2f}",
        "tok/s": f"{metrics['perf/tokens_per_s']:.0f}",
    }
    if run.is_reporting_rank:
        file = run.folder.rollouts / f"step_{step.number}.jsonl"
        write_rollouts(file, collected.generated, collected.groups, step.advantages.values)
    run.log(step.number, metrics, console)


def step_counts(session: Session) -> dict[str, float]:
    """What this rank's verifiers and image store counted in this step."""
    scorer, store = session.scorer.counters, session.data.store.counters
    counts = {"reward/timeouts": scorer["timeouts"], "reward/errors": scorer["errors"]}
    counts |= {"perf/images_decoded": store["decoded"]}
    new = {name: count - session.counted.get(name, 0) for name, count in counts.items()}
    session.counted = counts
    return new


def save(session: Session, step: int) -> None:
    """Write a checkpoint after `step`."""
    progress = {"collector": session.collector.state_dict(), "policy_version": session.engine.policy_version}
    session.run.save(step, progress)


def finish(session: Session) -> None:
    """Save and export what the run ended with."""
    run = session.run
    save(session, run.config.train.steps)
    if run.config.checkpoint.export:
        export(run, "megatron-eureka eval --model {folder} --benchmark NAME=PATH")
    run.finish()
    session.scorer.close()

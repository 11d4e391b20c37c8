"""Group-relative policy optimisation: the loop, and the verbs that it is made of."""

from __future__ import annotations

import time

import torch

from megatron_eureka.config.schema import Config
from megatron_eureka.families.source import ModelSource
from megatron_eureka.rl.step_advantages import StepAdvantages, step_advantages
from megatron_eureka.rollout.collect import Collected
from megatron_eureka.runs.metrics import over_updates
from megatron_eureka.runs.rollouts import write_rollouts
from megatron_eureka.train.batch import UpdateBatch, cut_into_updates, make_update
from megatron_eureka.train.engine_check import check_engine
from megatron_eureka.train.evaluation import evaluate_if
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
from megatron_eureka.train.session import Session, engine_turn, open_session
from megatron_eureka.train.sums import over_ranks
from megatron_eureka.train.update import update


def train(config: Config, source: ModelSource, name: str) -> None:
    """Train a model by GRPO; called on every rank of the job.

        prompts -> collect -> pack -> log-probs -> advantages -> update -> push weights -> log -> evaluate / save

    Raises:
        ValueError: bad input, with its remedy.
        RuntimeError: the run cannot go on (an engine died, a loss is not finite, nothing passes the filter).
    """
    session = open_session(config, source, name)
    evaluate_if(session, 0, session.run.step == 0)
    for step in session.run.steps():
        started = time.perf_counter()
        collected = collect(session, step)
        batches = make_batches(session, collected)
        batches = compute_logprobs(session, batches)
        advantages = compute_advantages(session, collected, batches)
        metrics = update_policy(session, batches, advantages)
        push_weights(session)
        log(session, step, collected, batches, advantages, metrics, time.perf_counter() - started)
        evaluate_if(session, step, session.run.is_due(step, config.evaluation.every))
        save_if(session, step, session.run.is_due(step, config.checkpoint.every))
    finish(session)


def collect(session: Session, step: int) -> Collected:
    """Generate, score and filter until the step's batch is full."""
    with engine_turn(session):
        return session.collector.collect(step)


def make_batches(session: Session, collected: Collected) -> list[UpdateBatch]:
    """Rows of each update of the step; encodes the step's images."""
    run = session.run
    with run.timers("pack"):
        chunks = cut_into_updates(collected.groups, run.config.train.samples_per_update)
        version = session.engine.policy_version
        batches = [make_update(groups, run.config, run.policy, version) for groups in chunks]
        if run.policy.encoder is not None:
            images = [image for batch in batches for image in batch.images]
            session.images_asked = run.policy.encoder.remember(images)
    return batches


def compute_logprobs(session: Session, batches: list[UpdateBatch]) -> list[UpdateBatch]:
    """Log-probs of all updates' rows under the weights that the step starts from, and under the reference.

    At the first step they are held against the engine's; see `check_engine` for what it raises.
    """
    run = session.run
    with run.timers("old_logprob"):
        batches = [with_old_logprobs(run.policy, batch) for batch in batches]
    if not session.compared:
        num_tokens = sum(batch.mismatch.numbers()["tokens"] for batch in batches)
        difference = mismatch_metrics(batches)["rollout_corr/logprob_diff_mean"]
        session.compared = check_engine(difference, num_tokens, run.config)
    if session.reference is None:
        return batches
    with run.timers("ref_logprob"), session.reference.in_place():
        return [with_reference(run.policy, batch) for batch in batches]


def compute_advantages(session: Session, collected: Collected, batches: list[UpdateBatch]) -> StepAdvantages:
    """Advantages of the step's samples from their rewards, less the KL penalty where it is one of the reward."""
    run, options = session.run, session.run.config.algorithm
    penalties = None
    if session.reference is not None and options.kl.place == "reward":
        penalties = options.kl.coef * torch.cat([kl_by_sample(run.policy, batch) for batch in batches])
    return step_advantages(collected.groups, options, penalties)


def update_policy(session: Session, batches: list[UpdateBatch], advantages: StepAdvantages) -> list[dict[str, float]]:
    """One optimizer step a batch; returns the metrics of each."""
    run = session.run
    planned = updates_per_step(run.config)
    of_batch = advantages.values.split([len(batch.samples) for batch in batches])
    with run.timers("update"):
        metrics: list[dict[str, float]] = []
        for batch, values in zip(batches, of_batch, strict=True):
            # A step takes its planned share of the schedule, however many groups the filter left.
            place = planned * (run.step + len(metrics) / len(batches))
            result = update(run.policy, batch.with_advantages(values), place, planned * run.config.train.steps)
            metrics.append(result)
            run.updates += 1
    return metrics


def updates_per_step(config: Config) -> int:
    """Optimizer steps of a step whose batch is full."""
    samples = config.rollout.prompts_per_step * config.rollout.samples_per_prompt
    return max(1, samples // config.train.samples_per_update)


def push_weights(session: Session) -> None:
    """Give the new weights to the engines; their own stay awake for `engine_turn`."""
    with session.run.timers("sync"):
        session.engine.wake(("weights",))
        session.engine.update_weights(session.run.weight_source)


def log(
    session: Session,
    step: int,
    collected: Collected,
    batches: list[UpdateBatch],
    advantages: StepAdvantages,
    updates: list[dict[str, float]],
    seconds: float,
) -> None:
    """Metrics, rollouts and the console line of a step."""
    run = session.run
    metrics = over_updates(updates)
    metrics |= mismatch_metrics(batches)
    metrics |= rollout_metrics(collected, session.engine.policy_version)
    metrics |= advantage_metrics(advantages, run.config.algorithm)
    warn_of_mismatch(metrics, run.config.algorithm.correction.alarm)
    metrics |= over_ranks(vision_counts(run.policy, session.images_asked) | step_counts(session))
    metrics["rollout/policy_version"] = float(session.engine.policy_version)
    metrics |= performance(collected, seconds)
    metrics |= throughput(run.policy, [row.micro_batch for batch in batches for row in batch.rows], run.timers)
    console = {
        "reward": f"{metrics['reward/total/mean']:.3f}",
        "accuracy": f"{metrics['reward/accuracy/mean']:.3f}",
        "kept": f"{len(collected.groups)}",
        "length": f"{metrics['response_length/mean']:.0f}",
        "loss": f"{metrics['actor/loss']:+.4f}",
        "grad": f"{metrics['actor/grad_norm']:.2f}",
        "tok/s": f"{metrics['perf/tokens_per_s']:.0f}",
    }
    if run.is_main:
        file = run.folder.rollouts / f"step_{step}.jsonl"
        write_rollouts(file, collected.generated, collected.groups, advantages.values)
    run.log(step, metrics, console)


def step_counts(session: Session) -> dict[str, float]:
    """What this rank's verifiers and image store counted in this step."""
    scorer, store = session.scorer.counters, session.data.store.counters
    counts = {"reward/timeouts": scorer["timeouts"], "reward/errors": scorer["errors"]}
    counts |= {"perf/images_decoded": store["decoded"]}
    new = {name: count - session.counted.get(name, 0) for name, count in counts.items()}
    session.counted = counts
    return new


def save_if(session: Session, step: int, due: bool) -> None:
    """Write a checkpoint after `step`."""
    if due:
        progress = {
            "collector": session.collector.state_dict(),
            "policy_version": session.engine.policy_version,
        }
        session.run.save(step, progress)


def finish(session: Session) -> None:
    """Evaluate, save and export what the run ended with."""
    run, last = session.run, session.run.config.train.steps
    evaluate_if(session, last, True)
    save_if(session, last, True)
    if run.config.checkpoint.export:
        export(run, "megatron-eureka eval --model {folder} --benchmark NAME=PATH")
    run.finish()
    session.scorer.close()

"""Group-relative policy optimisation: the loop, and the verbs that it is made of."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
import torch.distributed as dist

from megatron_eureka.config.model_folder import find_model_folder
from megatron_eureka.config.model_info import ModelInfo
from megatron_eureka.config.schema import Config
from megatron_eureka.evaluate.heldout import evaluate
from megatron_eureka.log import logger
from megatron_eureka.parallel.groups import device
from megatron_eureka.rewards.scorer import Scorer
from megatron_eureka.rl.step_advantages import StepAdvantages, step_advantages
from megatron_eureka.rollout.collect import Collected, Collector
from megatron_eureka.rollout.colocated import ColocatedEngine
from megatron_eureka.rollout.options import EngineOptions
from megatron_eureka.rollout.suppress import stop_token_ids, suppressed_token_ids
from megatron_eureka.train.batch import UpdateBatch, cut_into_updates, make_update
from megatron_eureka.train.logprob_passes import Logprobs, kl_by_sample, logprobs_of, old_logprobs
from megatron_eureka.train.reference_policy import ReferencePolicy
from megatron_eureka.train.rollout_metrics import (
    advantage_metrics,
    performance,
    rollout_metrics,
    throughput,
    vision_metrics,
    warn_of_mismatch,
)
from megatron_eureka.train.run import Data, Run, load_data, new_stream, open_folder, open_run, run_on_main, start_job
from megatron_eureka.train.update import update


def train(config: Config, name: str) -> None:
    """Train `config.model.path` by GRPO; called on every rank of the job.

        prompts -> collect -> pack -> log-probs -> advantages -> update -> push weights -> log -> evaluate / save

    Raises:
        ValueError: bad input, with its remedy.
        RuntimeError: the run cannot go on (an engine died, a loss is not finite, nothing passes the filter).
    """
    session = open_session(config, name)
    evaluate_if(session, 0, session.run.step == 0)
    for step in session.run.steps():
        started = time.perf_counter()
        collected = collect(session, step)
        batches = make_batches(session, collected)
        passes = compute_logprobs(session, batches)
        advantages = compute_advantages(session, collected, batches, passes)
        metrics = update_policy(session, batches, passes, advantages)
        push_weights(session)
        log(session, step, collected, batches, advantages, metrics, time.perf_counter() - started)
        evaluate_if(session, step, session.run.is_due(step, config.evaluation.every))
        save_if(session, step, session.run.is_due(step, config.checkpoint.every))
    finish(session)


@dataclass
class Session:
    """A run with its engine and what fills its batches."""

    run: Run
    engine: ColocatedEngine
    scorer: Scorer
    collector: Collector
    data: Data
    reference: ReferencePolicy | None = None  # where there is a KL term
    images_asked: int = 0  # distinct images of this replica's rows in the step
    counted: dict[str, int] = field(default_factory=dict)  # counters at the end of the step before


def open_session(config: Config, name: str) -> Session:
    """Set everything up and take up a run that was cut off; weights are in the engines afterwards."""
    layout, process_groups = start_job(config)
    folder = open_folder(config, name)
    workers = max(1, config.reward.workers // ranks_on_node())
    scorer = Scorer(config.reward.model_copy(update={"workers": workers}), config.rollout.max_response_tokens)
    data = load_data(config, scorer.check_label, spill_dir=folder.images)
    tokenizer = data.processor.tokenizer
    vocab_size = ModelInfo.from_folder(config.model.path).vocab_size
    stop_ids = stop_token_ids(find_model_folder(config.model.path).hf, tokenizer)
    banned = suppressed_token_ids(vocab_size, tokenizer, stop_ids)
    run = open_run(config, folder, data, layout, process_groups, banned)
    logger.info("starting %d engines of tp %d", layout.world_size // config.rollout.tp, config.rollout.tp)
    max_images = max(1, *(len(prompt.images) for prompt in (*data.train.prompts, *data.heldout)))
    engine = ColocatedEngine(EngineOptions.from_config(config, max_images=max_images))
    assert tuple(engine.suppressed) == tuple(banned), "engine and trainer must leave out the same tokens"
    stream = new_stream(config, data.train)
    prompts, end_token_id = data.train.prompts, tokenizer.eos_token_id
    collector = Collector(config, engine, scorer, data.store, prompts, stream, run.timers, end_token_id)
    reference = ReferencePolicy(run.policy) if config.algorithm.kl.coef else None  # of the weights before a resume
    session = Session(run, engine, scorer, collector, data, reference)
    progress = run.resume()
    if progress is not None:
        collector.load_state_dict(progress["collector"])
    if progress is not None or not engine.options.from_folder:
        engine.update_weights(run.weight_source, version=progress["policy_version"] if progress else 0)
    run.open_writer()
    return session


def ranks_on_node() -> int:
    """Ranks of the job on this machine; not every launcher says."""
    hosts: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(hosts, socket.gethostname())
    return hosts.count(socket.gethostname())


def collect(session: Session, step: int) -> Collected:
    """Generate, score and filter until the step's batch is full."""
    with engine_turn(session):
        return session.collector.collect(step)


@contextmanager
def engine_turn(session: Session) -> Iterator[None]:
    """GPU memory is the engine's inside and the trainer's afterwards; nothing moves without CUDA.

        weights awake -> sync -> trainer off-loads -> KV cache awake -> generate -> engine sleeps -> trainer restores

    The first two are `push_weights`; where no sync came before, the weights wake together with the KV cache. Not yet
    run on a GPU.
    """
    session.run.policy.offload()
    session.engine.wake(("weights", "kv_cache"))
    yield
    session.engine.sleep()
    session.run.policy.restore()


def make_batches(session: Session, collected: Collected) -> list[UpdateBatch]:
    """Rows of each update of the step; encodes the step's images."""
    run = session.run
    with run.timers("pack"):
        chunks = cut_into_updates(collected.groups, run.config.train.samples_per_update)
        version = session.engine.policy_version
        batches = [make_update(groups, run.config, run.policy, version) for groups in chunks]
        if run.policy.encoder is not None:
            images = [image for batch in batches for row in batch.rows for image in row.images]
            session.images_asked = run.policy.encoder.remember(images)
    return batches


def compute_logprobs(session: Session, batches: list[UpdateBatch]) -> list[Logprobs]:
    """Log-probs of all updates' rows under the weights that the step starts from, and under the reference."""
    run = session.run
    with run.timers("old_logprob"):
        passes = [old_logprobs(run.policy, batch) for batch in batches]
    if session.reference is None:
        return passes
    with run.timers("ref_logprob"), session.reference.in_place():
        return [
            replace(found, reference=logprobs_of(run.policy, batch))
            for found, batch in zip(passes, batches, strict=True)
        ]


def compute_advantages(
    session: Session, collected: Collected, batches: list[UpdateBatch], passes: list[Logprobs]
) -> StepAdvantages:
    """Advantages of the step's samples from their rewards, less the KL penalty where it is one of the reward."""
    run, options = session.run, session.run.config.algorithm
    penalties = None
    if session.reference is not None and options.kl.place == "reward":
        pairs = zip(batches, passes, strict=True)
        penalties = options.kl.coef * torch.cat([kl_by_sample(run.policy, batch, found) for batch, found in pairs])
    return step_advantages(collected.groups, options, penalties)


def update_policy(
    session: Session, batches: list[UpdateBatch], passes: list[Logprobs], advantages: StepAdvantages
) -> list[dict[str, float]]:
    """One optimizer step a batch; returns the metrics of each."""
    run = session.run
    planned = updates_per_step(run.config)
    of_batch = advantages.values.split([len(batch.samples) for batch in batches])
    with run.timers("update"):
        metrics: list[dict[str, float]] = []
        for batch, found, values in zip(batches, passes, of_batch, strict=True):
            # A step takes its planned share of the schedule, however many groups the filter left.
            place = planned * (run.step + len(metrics) / len(batches))
            result = update(run.policy, batch, found, values, place, planned * run.config.train.steps)
            metrics.append({**found.metrics, **result})
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
    metrics = {name: sum(each[name] for each in updates) / len(updates) for name in updates[0]}
    metrics["actor/log_ratio_max/first"] = updates[0]["actor/log_ratio_max"]  # 0 when old log-probs are this policy's
    metrics |= rollout_metrics(collected, session.engine.policy_version)
    metrics |= advantage_metrics(advantages, run.config.algorithm)
    warn_of_mismatch(metrics, run.config.algorithm.correction.alarm)
    metrics |= vision_metrics(run.policy, session.images_asked)
    metrics |= step_counts(session)
    metrics["rollout/policy_version"] = float(session.engine.policy_version)
    metrics |= performance(collected, seconds)
    metrics |= throughput(run.policy, [row for batch in batches for row in batch.rows], run.timers)
    console = {
        "reward": f"{metrics['reward/total/mean']:.3f}",
        "accuracy": f"{metrics['reward/accuracy/mean']:.3f}",
        "kept": f"{len(collected.groups)}",
        "length": f"{metrics['response_length/mean']:.0f}",
        "loss": f"{metrics['actor/loss']:+.4f}",
        "grad": f"{metrics['actor/grad_norm']:.2f}",
        "tok/s": f"{metrics['perf/tokens_per_s']:.0f}",
    }
    run.log_rollouts(step, collected.generated, collected.groups, advantages.values)
    run.log(step, metrics, console)


def step_counts(session: Session) -> dict[str, float]:
    """What verifiers and the image store counted in this step, over the job."""
    scorer, store = session.scorer.counters, session.data.store.counters
    counts = {"reward/timeouts": scorer["timeouts"], "reward/errors": scorer["errors"]}
    counts |= {"perf/images_decoded": store["decoded"]}
    new = torch.tensor([count - session.counted.get(name, 0) for name, count in counts.items()], dtype=torch.float64)
    session.counted = counts
    new = new.to(device())
    dist.all_reduce(new)
    return dict(zip(counts, new.tolist(), strict=True))


def evaluate_if(session: Session, step: int, due: bool) -> None:
    """Answer the held-out prompts greedily after `step`, and record the result."""
    run, prompts = session.run, session.data.heldout
    target = run.folder.path / "evaluation" / f"step_{step}.jsonl"
    if not due or not prompts or run_on_main(target.exists, for_all=True):
        return
    started = time.perf_counter()
    with engine_turn(session):
        result = evaluate(run.config, session.engine, session.scorer, session.data.store, prompts)
    if run.is_main:
        result.write(target)
        run.writer.write(step, {**result.metrics(), "timing_s/evaluation": time.perf_counter() - started})
        low, high = result.interval("accuracy")
        logger.info(
            "held-out after step %d: accuracy %.3f [%.3f, %.3f], format %.3f, %d prompts",
            *(step, result.rate("accuracy"), low, high, result.rate("format"), len(result.items)),
        )


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
        logger.info("exporting to %s", run.export())
    run.finish()
    session.scorer.close()

"""A GRPO run with its engine and what fills its batches, and whose turn the GPU's memory is."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from megatron_eureka.config.schema import Config
from megatron_eureka.data.stream import PromptStream
from megatron_eureka.engines.isolation import set_environment
from megatron_eureka.engines.options import EngineOptions
from megatron_eureka.engines.suppress import stop_token_ids, suppressed_token_ids
from megatron_eureka.evaluate.periodic import OpenBenchmark, open_benchmarks
from megatron_eureka.families.source import ModelSource
from megatron_eureka.log import logger
from megatron_eureka.rewards.scorer import Scorer
from megatron_eureka.rollout.collect import Collector
from megatron_eureka.train.reference_policy import ReferencePolicy
from megatron_eureka.train.run import Run
from megatron_eureka.train.setup import Data, load_data, open_folder, open_run, start_job, start_recording

if TYPE_CHECKING:
    from megatron_eureka.engines.colocated import ColocatedEngine


@dataclass
class Session:
    """A run with its engine and what fills its batches."""

    run: Run
    engine: ColocatedEngine
    scorer: Scorer
    collector: Collector
    data: Data
    benchmarks: tuple[OpenBenchmark, ...] = ()
    reference: ReferencePolicy | None = None  # where there is a KL term
    compared: bool = False  # the engine's log-probs with the trainer's, in this process
    counted: dict[str, int] = field(default_factory=dict)  # counters at the end of the step before


def open_session(config: Config, source: ModelSource, name: str) -> Session:
    """Set everything up and take up a run that was cut off; weights are in the engines afterwards."""
    set_environment(on_cpu=not torch.cuda.is_available())  # here, since torch keeps some of it for each thread
    layout, process_groups = start_job(config, meanwhile=engine_class)
    folder = open_folder(config, name)
    workers = max(1, config.reward.workers // ranks_on_node())
    scorer = Scorer(config.reward.model_copy(update={"workers": workers}), config.rollout.max_response_tokens)
    data = load_data(config, source, scorer.check_label, spill_dir=folder.images)
    tokenizer = data.processor.tokenizer
    stop_ids = stop_token_ids(source.hf, tokenizer)
    banned = suppressed_token_ids(source.info.vocab_size, tokenizer, stop_ids)
    run = open_run(config, source, folder, data, layout, process_groups, banned, config.rollout.temperature)
    logger.info("starting %d engines of tp %d", layout.world_size // config.rollout.tp, config.rollout.tp)
    benchmarks = open_benchmarks(config, data.processor, data.store, folder.images / "benchmarks")
    max_images = max(1, *(len(prompt.images) for prompt in (*data.train.prompts, *data.heldout)))
    max_images = max(max_images, *(opened.max_images for opened in benchmarks), 1)
    engine = engine_class()(
        EngineOptions.from_config(config, source, max_images=max_images, suppressed=banned), data.store
    )
    stream = PromptStream(len(data.train), config.train.seed, config.data.shuffle)
    prompts, end_token_id = data.train.prompts, tokenizer.eos_token_id
    collector = Collector(config, engine, scorer, prompts, stream, run.timers, end_token_id)
    reference = ReferencePolicy(run.policy) if config.algorithm.kl.coef else None  # of the weights before a resume
    session = Session(run, engine, scorer, collector, data, benchmarks, reference)
    progress = run.resume()
    if progress is not None:
        collector.load_state_dict(progress["collector"])
    if progress is not None or not engine.options.from_folder:
        engine.update_weights(run.weight_source, version=progress["policy_version"] if progress else 0)
    start_recording(run)
    return session


def engine_class() -> type[ColocatedEngine]:
    """Imported when it is asked for: vLLM takes seconds, during which ranks may wait for each other already."""
    from megatron_eureka.engines.colocated import ColocatedEngine

    return ColocatedEngine


def ranks_on_node() -> int:
    """Ranks of the job on this machine; not every launcher says."""
    hosts: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(hosts, socket.gethostname())
    return hosts.count(socket.gethostname())


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


@contextmanager
def reference_turn(session: Session) -> Iterator[None]:
    """The reference's weights come from the host and are in the policy's place inside; without a KL term, nothing."""
    if session.reference is None:
        yield
        return
    with session.run.timers("ref_logprob"), session.reference.in_place():
        yield

"""Supervised fine-tuning on demonstrations: the cold start. The same policy, rows and optimizer as GRPO."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from megatron_eureka.config.schema import Config
from megatron_eureka.data.packing import Item
from megatron_eureka.data.prompts import PromptSet
from megatron_eureka.data.stream import PromptStream
from megatron_eureka.families.source import ModelSource
from megatron_eureka.log import logger
from megatron_eureka.rl.reductions import sample_weights
from megatron_eureka.runs.metrics import reduced
from megatron_eureka.train.batch import make_rows
from megatron_eureka.train.export import export
from megatron_eureka.train.policy import WHOLE, accumulate, step
from megatron_eureka.train.run import Run
from megatron_eureka.train.setup import load_data, open_folder, open_run, start_job, start_recording
from megatron_eureka.train.sums import Sums, sum_over_job
from megatron_eureka.train.train_row import TrainRow


def fine_tune(config: Config, source: ModelSource, name: str) -> None:
    """Fit a model to the responses in `config.data.train`; called on every rank of the job.

    Each of `train.steps` updates takes `train.samples_per_update` demonstrations; the loss is the mean negative
    log-likelihood of all their response tokens. The vision tower trains when `model.freeze_vision` is false.

    Raises:
        ValueError: bad input, with its remedy.
        RuntimeError: the loss is not finite.
    """
    layout, process_groups = start_job(config)
    folder = open_folder(config, name)
    data = load_data(config, source, None, with_responses=True, spill_dir=folder.images)
    demonstrations = without_overlong(data.train, config.train.max_tokens_per_microbatch, config.data.overlong)
    run = open_run(config, source, folder, data, layout, process_groups)
    stream = PromptStream(len(demonstrations), config.train.seed, config.data.shuffle)
    progress = run.resume()
    if progress is not None:
        stream.load_state_dict(progress["stream"])
    start_recording(run)
    for number in run.steps():
        started = time.perf_counter()
        with run.timers("update"):
            metrics = fit(run, demonstrations, stream.take(config.train.samples_per_update))
        metrics |= {"perf/samples_per_s": config.train.samples_per_update / (time.perf_counter() - started)}
        console = {"loss": f"{metrics['sft/loss']:.4f}", "grad": f"{metrics['sft/grad_norm']:.2f}"}
        run.log(number, metrics, console)
        if run.is_due(number, config.checkpoint.every):
            run.save(number, {"stream": stream.state_dict()})
    run.save(config.train.steps, {"stream": stream.state_dict()})
    if config.checkpoint.export:
        export(run, "megatron-eureka train CONFIG model.path={folder}")
    run.finish()


def without_overlong(demonstrations: PromptSet, limit: int, overlong: str) -> PromptSet:
    """The demonstrations that fit into a row, prompt and response together.

    Raises:
        ValueError: one does not, and `data.overlong` is "error"; or none does.
    """
    pairs = list(zip(demonstrations.prompts, demonstrations.responses, strict=True))
    fitting = [(prompt, response) for prompt, response in pairs if prompt.num_tokens + len(response) <= limit]
    if len(fitting) == len(pairs):
        return demonstrations
    longest, response = max(pairs, key=lambda pair: pair[0].num_tokens + len(pair[1]))
    text = (
        f"{len(pairs) - len(fitting)} of {len(pairs)} demonstrations have more tokens than "
        f"train.max_tokens_per_microbatch {limit}; the longest is {longest.place} with "
        f"{longest.num_tokens + len(response)}."
    )
    if overlong == "error" or not fitting:
        raise ValueError(f"{text} Raise it, or leave them out with data.overlong=drop.")
    logger.warning("%s They are left out.", text)
    prompts, responses = zip(*fitting, strict=True)
    dropped = {**demonstrations.counters, "overlong": demonstrations.counters["overlong"] + len(pairs) - len(fitting)}
    return PromptSet(prompts, responses, dropped)


def fit(run: Run, demonstrations: PromptSet, indices: Sequence[int]) -> dict[str, float]:
    """One optimizer step on the demonstrations of these indices."""
    policy, config = run.policy, run.config
    pairs = [(demonstrations.prompts[i], demonstrations.responses[i]) for i in indices]
    items = [Item(prompt, (response,), (number,)) for number, (prompt, response) in enumerate(pairs)]
    weights = torch.tensor(sample_weights("token_mean", [len(response) for _, response in pairs]))
    packed = make_rows(items, config.train.max_tokens_per_microbatch, policy)
    rows = [TrainRow(row, token_weights=weights[row.sample_index]) for row in packed]
    if policy.encoder is not None:
        policy.encoder.remember(image for row in rows for image in row.micro_batch.images)

    def row_loss(row: TrainRow, logprobs: torch.Tensor, entropies: torch.Tensor, part: slice = WHOLE):
        per_token = row.token_weights[part]
        loss = -(per_token * logprobs).sum()
        if part != WHOLE:
            return loss, None
        return loss, Sums.of({"sft/loss": loss, "sft/entropy": (per_token * entropies.detach()).sum()})

    totals = sum_over_job(policy, accumulate(policy, rows, row_loss, by_token=True), reduced("sft"))
    result = step(policy, run.updates, config.train.steps)
    run.updates += 1
    return totals.metrics() | {"sft/grad_norm": result.grad_norm, "sft/lr": result.lr}

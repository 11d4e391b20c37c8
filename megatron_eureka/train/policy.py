"""The policy under training: model chunks, gradients and optimizer of this rank, and the two things done with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.optimizer import ChainedOptimizer, MegatronOptimizer, OptimizerConfig, get_megatron_optimizer
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.process_groups_config import ProcessGroupCollection

from megatron_eureka.checkpoints import check_hf_keys, load_hf
from megatron_eureka.checkpoints.megatron_loader import load_megatron
from megatron_eureka.config.model_info import ModelInfo
from megatron_eureka.config.schema import Config
from megatron_eureka.families.source import ModelSource
from megatron_eureka.log import logger
from megatron_eureka.model.build import build_model, named_weights
from megatron_eureka.model.chunk import Chunk
from megatron_eureka.model.logprobs import token_losses, vocab_parallel_logprobs
from megatron_eureka.model.tower import ImageEncoder, PixelSource, run_tower
from megatron_eureka.parallel import cpu_shim
from megatron_eureka.parallel.groups import coordinates, device
from megatron_eureka.parallel.layout import Layout
from megatron_eureka.train.schedule import learning_rate
from megatron_eureka.train.train_row import TrainRow
from megatron_eureka.types import MicroBatch

Report = Any  # what the loss of a row says beside it: sums for metrics, say
WHOLE = slice(None)


class RowLoss(Protocol):
    """The loss of a row, to be summed over all rows, and what it reports."""

    def __call__(
        self, row: TrainRow, logprobs: torch.Tensor, entropies: torch.Tensor, part: slice = WHOLE
    ) -> tuple[torch.Tensor, Report]:
        """Of a row on the device: log-probs and entropies [targets] float32 of all its targets, or of a part.

        The report of a part is not asked for.
        """
        ...


@dataclass
class Policy:
    """This rank's part of the policy. `chunks` are wrapped for gradient reduction, `model` are the same, bare."""

    config: Config
    source: ModelSource  # of the weights it started with
    layout: Layout
    groups: ProcessGroupCollection
    model: list[Chunk]
    chunks: list[DistributedDataParallel]
    optimizer: MegatronOptimizer
    pixels: PixelSource
    encoder: ImageEncoder | None  # first stage of a model with a tower, where it is frozen
    banned: torch.Tensor | None  # [vocabulary / tp] bool, tokens that the sampler may not choose
    temperature: float = 1.0  # of the sampler; log-probs are those of the distribution that it draws from

    @property
    def info(self) -> ModelInfo:
        """Sizes of the model."""
        return self.source.info

    @property
    def is_first_stage(self) -> bool:
        return self.model[0].pre_process

    @property
    def is_last_stage(self) -> bool:
        return self.model[-1].post_process

    @property
    def dp_rank(self) -> int:
        return coordinates(self.layout).dp

    @property
    def row_multiple(self) -> int:
        """Row lengths are a multiple of this: sequence parallelism cuts them into tp parts."""
        return self.layout.tp if self.config.parallel.sequence_parallel else 1

    def weights(self) -> dict[str, torch.nn.Parameter]:
        """This rank's parameters under their global names."""
        return named_weights(self.model)

    def offload(self) -> None:
        """Give GPU memory to the engine: gradient buffers are freed, optimizer state and main weights go to the host.

        The parameters stay. Nothing happens without CUDA. Not yet run on a GPU.
        """
        if not torch.cuda.is_available():
            return
        self.optimizer.zero_grad()  # what it holds are views of the buffers that go
        for chunk in self.chunks:
            chunk.offload_grad_buffers()
        self.optimizer.offload_to_cpu()

    def restore(self) -> None:
        """Take back what `offload` gave away; gradients are zero. Nothing without CUDA. Not yet run on a GPU."""
        if not torch.cuda.is_available():
            return
        self.optimizer.restore_from_cpu()
        for adam in torch_adams(self.optimizer):
            for state in adam.state.values():  # torch keeps the counters on the host, or it reads each from the GPU
                state["step"] = state["step"].cpu()
        for chunk in self.chunks:
            chunk.restore_grad_buffers()


def torch_adams(optimizer: MegatronOptimizer) -> list[torch.optim.Optimizer]:
    """The torch optimizers inside Megatron-Core's; empty where Transformer Engine's fused Adam is used instead."""
    parts = optimizer.chained_optimizers if isinstance(optimizer, ChainedOptimizer) else [optimizer]
    return [part.optimizer for part in parts if isinstance(part.optimizer, torch.optim.Adam)]


def build_policy(
    config: Config,
    source: ModelSource,
    layout: Layout,
    groups: ProcessGroupCollection,
    pixels: PixelSource,
    banned: Sequence[int] = (),
    temperature: float = 1.0,
) -> Policy:
    """Build a model, load its weights and put the distributed optimizer on it.

    Args:
        banned: token ids that sampling never yields; they get no probability in training either.
        temperature: of the sampler; 1 where nothing is sampled.
    """
    model = _load_model(config, source, layout, groups)
    core_config = model[0].config
    ddp_config = DistributedDataParallelConfig(grad_reduce_in_fp32=True, use_distributed_optimizer=True)
    chunks = [DistributedDataParallel(core_config, ddp_config, chunk) for chunk in model]
    options = config.optimizer
    optimizer_config = OptimizerConfig(
        optimizer="adam",
        lr=options.lr,
        adam_beta1=options.beta1,
        adam_beta2=options.beta2,
        adam_eps=options.eps,
        weight_decay=options.weight_decay,
        clip_grad=options.clip_grad,
        bf16=config.precision.dtype == "bf16",
        params_dtype=core_config.params_dtype,
        use_distributed_optimizer=True,
    )
    with cpu_shim.cuda_type_names():
        optimizer = get_megatron_optimizer(optimizer_config, chunks, use_gloo_process_groups=False)
    # The losses carry their global denominators, so nothing is left to divide by when gradients are final.
    core_config.finalize_model_grads_func = lambda chunks, num_tokens, **kwargs: finalize_model_grads(chunks, **kwargs)
    core_config.no_sync_func = chunks[0].no_sync if len(chunks) == 1 else [chunk.no_sync for chunk in chunks]
    core_config.grad_scale_func = optimizer.scale_loss
    encoder = None
    if model[0].visual is not None and config.model.freeze_vision:
        encoder = ImageEncoder(model[0].visual, pixels, groups.tp)
    return Policy(
        config=config,
        source=source,
        layout=layout,
        groups=groups,
        model=model,
        chunks=chunks,
        optimizer=optimizer,
        pixels=pixels,
        encoder=encoder,
        banned=_banned_rows(banned, source.info.vocab_size, coordinates(layout).tp, layout.tp),
        temperature=temperature,
    )


def _load_model(config: Config, source: ModelSource, layout: Layout, groups: ProcessGroupCollection) -> list[Chunk]:
    """This rank's chunks with their weights, whichever kind of folder they are in."""
    logger.info("weights from the %s", source.folder)
    if source.has_hf_weights:
        check_hf_keys(source.path, source.info)
    model = build_model(source, config.model, config.parallel, config.precision, groups)
    if not source.has_hf_weights:
        load_megatron(source.path, model, named_weights(model), source.info)
        return model
    with torch.no_grad():
        load_hf(source.path, named_weights(model), source.info, coordinates(layout).tp, layout.tp)
    return model


def _banned_rows(token_ids: Sequence[int], vocab_size: int, tp_rank: int, tp_size: int) -> torch.Tensor | None:
    if not token_ids:
        return None
    banned = torch.zeros(vocab_size, dtype=torch.bool)
    banned[list(token_ids)] = True
    return banned.chunk(tp_size)[tp_rank].to(device())


def run_rows(
    policy: Policy, rows: Sequence[TrainRow], row_loss: RowLoss, forward_only: bool, by_token: bool = False
) -> list[Report]:
    """Push rows through the pipeline, and gradients back unless `forward_only`; a collective over the whole layout.

    Args:
        rows: this replica's rows, as many as on every other replica. With pipeline stages they have one length.
        by_token: the loss of a row is the sum of those of its parts, however its targets are cut: then its gradient is
            made part by part while their logits are there, which saves a quarter of the head's work.

    Returns:
        what `row_loss` reported for each row, on the last stage; elsewhere an empty list.
    """
    chunk_bytes = policy.config.train.logprob_chunk_bytes(on_cuda=torch.cuda.is_available())

    def forward_step(iterator, chunk):
        train_row = next(iterator)
        row = train_row.micro_batch
        bare = chunk.module if isinstance(chunk, DistributedDataParallel) else chunk
        images = _image_embeddings(policy, row) if bare.pre_process and row.images else None
        hidden = chunk(row, images)

        def loss_func(hidden):
            states, head = bare.predicting(hidden, row), bare.head(policy.temperature, policy.banned, chunk_bytes)
            if by_token and not forward_only:

                def of_part(part, logprobs, entropies):
                    return row_loss(train_row, logprobs, entropies, part)[0]

                loss, logprobs, entropies = token_losses(states, row.targets, head, of_part)
                report = row_loss(train_row, logprobs, entropies)[1]
            else:
                logprobs, entropies = vocab_parallel_logprobs(states, row.targets, head)
                loss, report = row_loss(train_row, logprobs, entropies)
            return loss, torch.zeros((), dtype=torch.int, device=loss.device), report

        return hidden, loss_func

    on_device = [row.to_device() for row in rows]
    iterators = [iter(on_device) for _ in policy.chunks]
    with torch.set_grad_enabled(not forward_only):
        return get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=iterators if len(iterators) > 1 else iterators[0],
            model=policy.chunks,
            num_microbatches=len(rows),
            seq_length=len(rows[0].micro_batch.token_ids),
            micro_batch_size=1,
            forward_only=forward_only,
        )


def _image_embeddings(policy: Policy, row: MicroBatch) -> torch.Tensor:
    if policy.encoder is not None:
        return policy.encoder(row.images)
    return run_tower(policy.model[0].visual, list(row.images), policy.pixels)


@dataclass(frozen=True)
class StepResult:
    """What an optimizer step says of itself."""

    grad_norm: float
    lr: float


def accumulate(policy: Policy, rows: Sequence[TrainRow], row_loss: RowLoss, by_token: bool = False) -> list[Report]:
    """Zero the gradients, then sum those of `rows` over the whole layout; see `run_rows`."""
    for chunk in policy.chunks:
        chunk.zero_grad_buffer()
    policy.optimizer.zero_grad()
    return run_rows(policy, rows, row_loss, forward_only=False, by_token=by_token)


def step(policy: Policy, update: float, num_updates: int) -> StepResult:
    """Clip the gradients and move the weights.

    Raises:
        RuntimeError: the gradient norm is not finite; the weights are as before.
    """
    options = policy.config.optimizer
    lr = learning_rate(update, num_updates, options)
    for group in policy.optimizer.param_groups:
        group["lr"] = lr * group.get("lr_mult", 1.0)
        group["weight_decay"] = options.weight_decay * group.get("wd_mult", 1.0)
    with cpu_shim.cuda_type_names():
        # `optimizer.step` does both of these again: it would move the weights before anyone saw the norm.
        policy.optimizer.prepare_grads()
        grad_norm = float(policy.optimizer.get_grad_norm())
        if not math.isfinite(grad_norm):
            raise RuntimeError(
                f"Update {update}: the gradient norm is {grad_norm}; the weights were not moved. The loss or the "
                "weights are not finite: lower optimizer.lr and resume from the last checkpoint."
            )
        policy.optimizer.step()
    return StepResult(grad_norm=grad_norm, lr=lr)

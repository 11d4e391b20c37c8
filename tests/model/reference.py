"""The same prompts, images and responses through transformers and through our model on any layout."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist

from megatron_eureka.config.model_info import ModelInfo
from megatron_eureka.config.schema import Config
from megatron_eureka.data.packing import Item, pack, plan_rows, round_up
from megatron_eureka.families import on_disk_name
from megatron_eureka.families.source import ModelSource
from megatron_eureka.model.reference import reference_forward, reference_model
from megatron_eureka.parallel import groups
from megatron_eureka.parallel.layout import Layout
from megatron_eureka.train.policy import WHOLE, Policy, accumulate, build_policy
from megatron_eureka.train.train_row import TrainRow
from megatron_eureka.types import ImageKey, Prompt
from megatron_eureka.weights import rules_by_name, shards_to_hf

GRIDS = {"wide": (1, 4, 8), "tall": (1, 8, 4), "small": (1, 2, 4)}  # patches; a quarter as many tokens


def image_key(name: str) -> ImageKey:
    time, height, width = GRIDS[name]
    return ImageKey(digest=name, grid_thw=GRIDS[name], num_tokens=time * height * width // 4)


def pixels(image: ImageKey) -> torch.Tensor:
    """Fixed random patches of an image."""
    time, height, width = image.grid_thw
    seed = sum(map(ord, image.digest))
    return torch.randn(time * height * width, 3 * 2 * 14 * 14, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Case:
    """A prompt, given as text tokens and images, with its responses; a model of text alone gets no images."""

    parts: tuple  # ints and image names
    responses: tuple[tuple[int, ...], ...]

    def prompt(self, info: ModelInfo, index: int) -> Prompt:
        ids: list[int] = []
        images = []
        for part in self.parts:
            if isinstance(part, str) and info.vision is None:
                continue
            if isinstance(part, str):
                images.append(image_key(part))
                ids += [info.vision_start_token_id, *[info.image_token_id] * images[-1].num_tokens]
            else:
                ids.append(part)
        return Prompt(f"case {index}", index, (), "", tuple(ids), tuple(ids), tuple(images))


CASES = (
    Case((1, "wide", 5, 6, 7), ((11, 12, 13, 14), (15, 16), (17, 18, 19))),  # an image
    Case((20, 21, 22, 23, 24), ((25, 26, 27), (28, 29, 30, 31, 32))),  # text alone
    Case((40, "tall", 41, "small", 42, "wide", 43), ((44, 45, 46), (47,))),  # several, one of them seen before
)
NUM_SAMPLES = sum(len(case.responses) for case in CASES)


def hf_logits(model: torch.nn.Module, prompt: Prompt, response: tuple[int, ...]) -> torch.Tensor:
    """[prompt + response tokens, vocabulary] of one sequence on its own."""
    return reference_forward(model, prompt, (*prompt.token_ids, *response), pixels)[0]


def hf_reference(folder: str, temperature: float = 1.0, banned: tuple[int, ...] = ()) -> dict:
    """Logits of each sequence, log-probs of responses, loss (mean over all response tokens) and its gradients.

    Args:
        temperature, banned: of the log-probs and what follows from them; the logits are the model's own.
    """
    source = ModelSource.open(folder)
    model, info = reference_model(source), source.info
    excluded = torch.tensor([token in banned for token in range(info.vocab_size)])
    logits, logprobs, entropies = [], [], []
    for index, case in enumerate(CASES):
        prompt = case.prompt(info, index)
        for response in case.responses:
            out = hf_logits(model, prompt, response)
            scaled = out[prompt.num_tokens - 1 : -1].float().div(temperature)
            predicting = scaled.masked_fill(excluded, float("-inf")).log_softmax(-1)
            logprobs.append(predicting.gather(1, torch.tensor(response)[:, None])[:, 0])
            entropies.append(-(predicting.exp() * predicting.masked_fill(excluded, 0.0)).sum(-1).detach())
            logits.append(out.detach())
    loss = -torch.cat(logprobs).mean()
    loss.backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {
        "logits": logits,
        "logprobs": torch.cat(logprobs).detach(),
        "entropies": torch.cat(entropies),
        "loss": loss.item(),
        "grads": {on_disk_name(name): grad for name, grad in grads.items()},
    }


def config_for(folder: str, layout: Layout, **options) -> Config:
    parallel = {"tp": layout.tp, "pp": layout.pp, "vpp": layout.vpp, "sp": options.pop("sp", False)}
    parallel["recompute"] = options.pop("recompute", "none")
    model = {"path": folder, "freeze_vision": options.pop("freeze_vision", False)}
    return Config.model_validate({"model": model, "parallel": parallel, "precision": {"dtype": "fp32"}, **options})


def items_of(info: ModelInfo) -> list[Item]:
    items, sample = [], 0
    for index, case in enumerate(CASES):
        numbers = tuple(range(sample, sample + len(case.responses)))
        items.append(Item(case.prompt(info, index), case.responses, numbers))
        sample += len(case.responses)
    return items


def rows_of(policy: Policy, max_tokens: int, one_by_one: bool = False) -> list:
    """This replica's rows of the cases; `one_by_one` gives each response a row of its own."""
    items = items_of(policy.info)
    if one_by_one:
        items = [Item(i.prompt, (r,), (s,)) for i in items for r, s in zip(i.responses, i.sample_ids, strict=True)]
    sizes = [item.num_tokens for item in items]
    plan = plan_rows(sizes, max_tokens, policy.layout.dp)
    lengths = [max(1, sum(sizes[i] for i in row)) for rows in plan for row in rows]
    length = round_up(max(lengths), policy.row_multiple)
    mine = plan[policy.dp_rank]
    return [pack([items[i] for i in row], length, policy.info) for row in mine]


def run_ours(rank: int, world: int, folder: str, layout: Layout, options: dict) -> dict | None:
    """On each rank: loss and gradients of the cases; rank 0 of the last stage returns everything."""
    options = dict(options)
    max_tokens, one_by_one = options.pop("max_tokens", 4096), options.pop("one_by_one", False)
    by_token = options.pop("by_token", True)  # as fine-tuning and most losses do
    change_row, banned = options.pop("change_row", lambda row: row), options.pop("banned", ())
    process_groups = groups.start(layout, seed=1, timeout_s=60)
    config = config_for(folder, layout, **options)
    policy = build_policy(
        config, ModelSource.open(config.model.path), layout, process_groups, pixels, banned, config.rollout.temperature
    )
    rows = [change_row(row) for row in rows_of(policy, max_tokens, one_by_one)]
    if policy.encoder is not None:
        policy.encoder.remember(image for row in rows for image in row.images)
    num_targets = sum(len(r) for case in CASES for r in case.responses)
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    logits: list[torch.Tensor] = []
    if policy.is_last_stage:
        policy.model[-1].language_model.decoder.register_forward_hook(
            lambda module, inputs, hidden: logits.append(_all_logits(policy, hidden.detach()))
        )

    def row_loss(row, logprobs, entropies, part=WHOLE):
        if part == WHOLE:
            seen.append((row.sample_index, logprobs.detach(), entropies.detach()))
        loss = -logprobs.sum() / num_targets
        return loss, {"loss": loss.detach()}

    reports = accumulate(policy, [TrainRow(row) for row in rows], row_loss, by_token=by_token)
    loss = torch.tensor(sum(float(report["loss"]) for report in reports))
    dist.all_reduce(loss, group=process_groups.dp)
    policy.optimizer.prepare_grads()
    grad_norm = float(policy.optimizer.get_grad_norm())
    grads = _hf_gradients(policy)
    last = policy.is_last_stage and layout.coordinates(rank).tp == 0
    result = {"loss": loss.item(), "grad_norm": grad_norm, "grads": grads, "samples": seen if last else None}
    if last:
        result["logits"] = [item for row, full in zip(rows, logits, strict=True) for item in _by_sample(row, full)]
    groups.stop()
    return result


def _all_logits(policy: Policy, hidden: torch.Tensor) -> torch.Tensor:
    """[tokens, vocabulary] on every rank of the last stage, from hidden states that may be cut over the sequence."""

    def gathered(x: torch.Tensor, dim: int) -> torch.Tensor:
        parts = [torch.empty_like(x) for _ in range(policy.layout.tp)]
        dist.all_gather(parts, x.contiguous(), group=policy.groups.tp)
        return torch.cat(parts, dim)

    if policy.config.parallel.sequence_parallel:
        hidden = gathered(hidden, 0)
    return gathered(hidden[:, 0] @ policy.model[-1].language_model.head_weight().detach().T, 1)


def _by_sample(row, logits: torch.Tensor) -> list[tuple[int, torch.Tensor]]:
    """(sample, logits of its prompt and response) for every response of a row."""
    responses = [segment for segment in row.segments if len(segment.key_ranges) == 2]
    samples = row.sample_index.unique_consecutive().tolist()
    return [
        (sample, torch.cat([logits[start:end] for start, end in segment.key_ranges]))
        for sample, segment in zip(samples, responses, strict=True)
    ]


def _hf_gradients(policy: Policy) -> dict[str, torch.Tensor]:
    """Full gradients of this stage under the names on disk. With one replica, main_grad holds all of it."""
    if policy.layout.dp > 1:
        return {}
    rules, grads = rules_by_name(policy.info), {}
    for name, parameter in policy.weights().items():
        if not parameter.requires_grad:
            continue
        local = parameter.main_grad.contiguous()
        shards = [torch.empty_like(local) for _ in range(policy.layout.tp)]
        dist.all_gather(shards, local, group=policy.groups.tp)
        if rules[name].tp_dim is None:  # replicated: the ranks must agree
            assert all(torch.allclose(shard, local, rtol=1e-5, atol=1e-7) for shard in shards), name
        grads.update(shards_to_hf(rules[name], shards))
    return grads


def merge(results: list[dict]) -> dict:
    """One result of all ranks: log-probs in the order of samples, gradients of all stages."""
    pieces = [piece for result in results for piece in (result["samples"] or [])]
    order = torch.cat([samples for samples, _, _ in pieces])
    logprobs = torch.cat([values for _, values, _ in pieces])
    grads = {}
    for result in results:
        grads.update(result["grads"])
    last = next(result for result in reversed(results) if result["samples"] is not None)
    by_sample = torch.cat([logprobs[order == sample] for sample in range(NUM_SAMPLES)])
    logits = dict(item for result in results for item in result.get("logits", []))
    entropies = torch.cat([values for _, _, values in pieces])
    return {
        "loss": last["loss"],
        "grad_norm": last["grad_norm"],
        "logprobs": by_sample,
        "entropies": torch.cat([entropies[order == sample] for sample in range(NUM_SAMPLES)]),
        "logits": [logits[sample] for sample in range(NUM_SAMPLES)],
        "grads": grads,
    }

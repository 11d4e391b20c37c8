"""The programs of gpu_check, run by one process on one device: model, SFT steps, RL updates on recorded rollouts.

    python tools/bench/gpu_programs.py '{"name": "cpu fp32", "device": "cpu", "dtype": "fp32", ...}' MODEL OUT.pt

They call the code of the package (`build_policy`, `fit`, `make_update`, `update`) on fixed token ids, pixels, rewards
and log-probs, and write tensors to OUT.pt. The package takes CUDA where torch sees it: a CPU process is started with
CUDA_VISIBLE_DEVICES empty.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import megatron_eureka  # noqa: E402, F401  (before transformers: on CPU it makes CUDA-linked wheels importable)

# isort: split
import torch  # noqa: E402

from megatron_eureka.checkpoints import hf_to_megatron  # noqa: E402
from megatron_eureka.checkpoints.megatron_loader import load_megatron  # noqa: E402
from megatron_eureka.config.model_info import ModelInfo  # noqa: E402
from megatron_eureka.config.schema import Config  # noqa: E402
from megatron_eureka.data.packing import Item  # noqa: E402
from megatron_eureka.data.prompts import PromptSet  # noqa: E402
from megatron_eureka.families.source import ModelSource  # noqa: E402
from megatron_eureka.model import attention  # noqa: E402
from megatron_eureka.parallel import groups  # noqa: E402
from megatron_eureka.rl.step_advantages import step_advantages  # noqa: E402
from megatron_eureka.train.batch import cut_into_updates, make_rows, make_update  # noqa: E402
from megatron_eureka.train.logprob_passes import kl_by_sample, mismatch_metrics, with_old_logprobs, with_reference  # noqa: E402
from megatron_eureka.train.policy import Policy, accumulate, build_policy  # noqa: E402
from megatron_eureka.train.reference_policy import ReferencePolicy  # noqa: E402
from megatron_eureka.train.setup import start_job  # noqa: E402
from megatron_eureka.train.sft import fit  # noqa: E402
from megatron_eureka.train.train_row import TrainRow  # noqa: E402
from megatron_eureka.train.update import update  # noqa: E402
from megatron_eureka.types import FinishReason, Group, ImageKey, Prompt, Sample, VersionSpan  # noqa: E402
from megatron_eureka.weights import rules_by_name, shards_to_hf  # noqa: E402
from tools.bench.gpu_variants import Variant  # noqa: E402

GRIDS = ((1, 4, 8), (1, 8, 4), (1, 2, 4), (1, 8, 8))  # patches; a quarter as many tokens
NUM_PROMPTS, NUM_SAMPLES = 6, 4
SFT_STEPS, ROLLOUTS = 8, 2
BANNED = (0, 1, 2, 3)  # recorded responses use none of them
# Together all losses, the KL term in both places and the options that add something to them. GSPO's own bounds are so
# narrow that all responses leave them at this learning rate, and the gradient would be that of the KL term alone.
ALGORITHMS = {
    "grpo": {},
    "gspo": {
        "loss": "gspo",
        "gspo": {"clip_low": 0.1, "clip_high": 0.1},
        "kl": {"coef": 0.02, "place": "loss", "estimator": "k3"},
        "entropy_coef": 0.01,
    },
    "cispo": {
        "loss": "cispo",
        "advantage": "rloo",
        "reduction": "token_mean",
        "kl": {"coef": 0.02, "place": "reward", "estimator": "k1"},
        "adora": {"enabled": True},
        "correction": {"weights": "none"},
    },
}


def recorded_groups(seed: int = 7) -> list[Group]:
    """The same prompts, images, responses, engine log-probs and rewards in every process, from plain Python."""
    draw = random.Random(seed)
    groups_ = []
    for index in range(NUM_PROMPTS):
        grids = [GRIDS[(index + i) % len(GRIDS)] for i in range(index % 3)]  # none, one or two
        images = tuple(ImageKey(f"recorded {grid}", grid, grid[1] * grid[2] // 4) for grid in grids)
        prompt = Prompt(f"recorded {index}", index, (), "", (), (), images)
        samples = []
        for number in range(NUM_SAMPLES):
            tokens = tuple(draw.randrange(10, 250) for _ in range(draw.randrange(4, 24)))
            logprobs = tuple(draw.uniform(-8.0, -3.0) for _ in tokens)
            accuracy = float((number + index) % 2)
            rewards = {"accuracy": accuracy, "total": accuracy + 0.5 * draw.randrange(2)}
            samples.append(Sample(tokens, logprobs, FinishReason.STOP, (VersionSpan(0, 0),), "", rewards))
        groups_.append(Group(replace(prompt, token_ids=tuple(draw.randrange(10, 250) for _ in range(12))), (*samples,)))
    return groups_


def with_images(group: Group, info: ModelInfo) -> Group:
    """Put the placeholders of a group's images in the middle of its prompt."""
    ids = group.prompt.token_ids
    middle = [
        token
        for image in group.prompt.images
        for token in (info.vision_start_token_id, *[info.image_token_id] * image.num_tokens)
    ]
    return replace(group, prompt=replace(group.prompt, token_ids=(*ids[:6], *middle, *ids[6:])))


def pixels(image: ImageKey) -> torch.Tensor:
    """Fixed random patches [patches, channels * time * patch * patch], drawn on the CPU everywhere."""
    time, height, width = image.grid_thw
    generator = torch.Generator().manual_seed(100 * height + width)
    return torch.randn(time * height * width, 3 * 2 * 14 * 14, generator=generator)


def policy_of(
    variant: Variant, folder: str, freeze_vision: bool, lr: float, algorithm: Mapping[str, object] | None = None
) -> Policy:
    """A policy on one rank with this variant's settings."""
    options = {
        "model": {"path": folder, "spec": variant.spec, "freeze_vision": freeze_vision},
        "precision": {"dtype": variant.dtype},
        "algorithm": algorithm or {},
        "rollout": {"temperature": 0.9},
        "train": {"max_tokens_per_microbatch": variant.row_tokens, "steps": SFT_STEPS, "logprob_chunk_mib": 1},
        "optimizer": {"lr": lr, "schedule": "constant", "warmup_fraction": 0.0},
    }
    config = Config.model_validate(options)
    layout, process_groups = start_job(config)  # deterministic algorithms included, as in a run
    return build_policy(
        config, ModelSource.open(folder), layout, process_groups, pixels, BANNED, config.rollout.temperature
    )


def run_model(variant: Variant, folder: str) -> dict[str, torch.Tensor]:
    """Log-probs and entropies of recorded tokens, the loss and its gradients, the tower's included."""
    policy = policy_of(variant, folder, freeze_vision=False, lr=1e-6)
    differing = differing_from_a_checkpoint(policy, folder)
    recorded = [with_images(group, policy.info) for group in recorded_groups()]
    items = [
        Item(
            group.prompt,
            tuple(s.token_ids for s in group.samples),
            tuple(range(i * NUM_SAMPLES, (i + 1) * NUM_SAMPLES)),
        )
        for i, group in enumerate(recorded)
    ]
    total = sum(len(response) for item in items for response in item.responses)
    seen = []

    def row_loss(row, logprobs, entropies):
        seen.append((row.sample_index.cpu(), logprobs.detach().cpu(), entropies.detach().cpu()))
        loss = -logprobs.sum() / total
        return loss, {"loss": loss.detach()}

    rows = [TrainRow(row) for row in make_rows(items, policy.config.train.max_tokens_per_microbatch, policy)]
    reports = accumulate(policy, rows, row_loss)
    policy.optimizer.prepare_grads()
    samples, logprobs, entropies = (torch.cat(parts) for parts in zip(*seen, strict=True))
    order = torch.argsort(samples, stable=True)
    rules, gradients = rules_by_name(policy.info), {}
    for name, parameter in policy.weights().items():
        gradients |= shards_to_hf(rules[name], [parameter.main_grad])
    return {
        "logprobs": logprobs[order],
        "entropies": entropies[order],
        "loss": torch.stack([report["loss"].float().cpu() for report in reports]).sum(),
        "grad_norm": torch.tensor(float(policy.optimizer.get_grad_norm())),
        "gradients": torch.cat([gradients[name].float().cpu().flatten() for name in sorted(gradients)]),
        "checkpoint": torch.tensor(differing),
    }


@torch.no_grad()
def differing_from_a_checkpoint(policy: Policy, folder: str) -> int:
    """How many parameters differ once the policy has been filled again, from a converted checkpoint of its folder."""
    expected = {name: parameter.clone() for name, parameter in policy.weights().items()}
    for parameter in policy.weights().values():
        parameter.fill_(torch.nan)
    with tempfile.TemporaryDirectory() as target:
        hf_to_megatron(folder, f"{target}/megatron")
        load_megatron(f"{target}/megatron", policy.model, policy.weights(), policy.info)
    return sum(not torch.equal(parameter, expected[name]) for name, parameter in policy.weights().items())


def run_sft(variant: Variant, folder: str) -> dict[str, torch.Tensor]:
    """Optimizer steps on two batches of demonstrations in turn; the tower trains."""
    policy = policy_of(variant, folder, freeze_vision=False, lr=3e-4)
    recorded = [with_images(group, policy.info) for group in recorded_groups()]
    demonstrations = PromptSet(
        tuple(group.prompt for group in recorded), tuple(group.samples[0].token_ids for group in recorded), {}
    )
    run = SimpleNamespace(policy=policy, config=policy.config, updates=0)
    half = NUM_PROMPTS // 2
    steps = [fit(run, demonstrations, range(half * (i % 2), half * (i % 2) + half)) for i in range(SFT_STEPS)]
    return {
        "losses": torch.tensor([step["sft/loss"] for step in steps]),
        "grad_norms": torch.tensor([step["sft/grad_norm"] for step in steps]),
    }


def run_rl(variant: Variant, folder: str, algorithm: Mapping[str, object]) -> dict[str, torch.Tensor]:
    """Rollouts of two updates each: old log-probs, then off-policy in the second update; the tower is frozen.

    Between rollouts the policy is off-loaded and restored, as it is while an engine generates.
    """
    policy = policy_of(variant, folder, freeze_vision=True, lr=3e-4, algorithm=algorithm)
    options = policy.config.algorithm
    reference = ReferencePolicy(policy) if options.kl.coef else None
    recorded = [with_images(group, policy.info) for group in recorded_groups()]
    old_all, metrics, penalties_all = [], [], []
    for _ in range(ROLLOUTS):
        chunks = cut_into_updates(recorded, NUM_PROMPTS * NUM_SAMPLES // 2)
        batches = [make_update(chunk, policy.config, policy) for chunk in chunks]
        policy.encoder.remember(image for batch in batches for image in batch.images)
        batches = [with_old_logprobs(policy, batch) for batch in batches]
        penalties = None
        if reference is not None:
            with reference.in_place():
                batches = [with_reference(policy, batch) for batch in batches]
            penalties = options.kl.coef * torch.cat([kl_by_sample(policy, batch) for batch in batches])
            penalties_all.append(penalties.cpu())
        in_reward = reference is not None and options.kl.place == "reward"
        advantages = step_advantages(recorded, options, penalties if in_reward else None).values
        advantages = advantages.split(NUM_PROMPTS * NUM_SAMPLES // 2)
        for number, batch in enumerate(batches):
            samples = torch.cat([row.sample_index for row in batch.rows])
            order = torch.argsort(samples, stable=True)
            old_all.append(torch.cat([row.old_logprobs for row in batch.rows]).cpu()[order])
            ready = batch.with_advantages(advantages[number])
            result = update(policy, ready, number, ROLLOUTS * len(batches))
            metrics.append({**mismatch_metrics([batch]), **result})
        policy.offload()
        policy.restore()

    def column(name):
        return torch.tensor([step[name] for step in metrics])

    kl_terms = {"kl": torch.cat(penalties_all)} if penalties_all else {}
    return kl_terms | {
        "old_logprobs": torch.cat(old_all),
        "first_ratio": torch.tensor([metrics[0]["actor/log_ratio_max"], metrics[2]["actor/log_ratio_max"]]),
        "losses": column("actor/loss"),
        "grad_norms": column("actor/grad_norm"),
        "entropies": column("actor/entropy"),
        "ppo_kl": column("actor/ppo_kl"),
        "engine_kl": column("rollout_corr/kl"),
    }


PROGRAMS = {
    "model": run_model,
    "sft": run_sft,
    **{name: partial(run_rl, algorithm=algorithm) for name, algorithm in ALGORITHMS.items()},
}


def prepare(variant: Variant) -> None:
    """Settings of a process before its first tensor; see the reasons.

    Raises:
        RuntimeError: the process has not the device that the variant asks for.
    """
    has_cuda = torch.cuda.is_available()
    if has_cuda != (variant.device == "cuda"):
        raise RuntimeError(f"{variant.name!r} wants {variant.device}, but torch.cuda.is_available() is {has_cuda}.")
    # The tower's patch embedding is a convolution, which cuDNN would compute with 10 bits of mantissa.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    if variant.attention == "segments":  # the package takes flash-attention wherever it is installed
        attention.flash_attention = lambda: None
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")


def main() -> None:
    variant = Variant(**json.loads(sys.argv[1]))
    prepare(variant)
    results = {name: program(variant, sys.argv[2]) for name, program in PROGRAMS.items()}
    groups.stop()
    torch.save(results, sys.argv[3])


if __name__ == "__main__":
    main()

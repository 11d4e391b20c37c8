"""What an optimizer step does to which weights, and where a step stands in the schedule."""

from types import SimpleNamespace

import pytest
import torch

from examples.digits.model import make_model
from megatron_eureka.config.schema import Config
from megatron_eureka.families.source import ModelSource
from megatron_eureka.parallel import groups
from megatron_eureka.parallel.layout import Layout
from megatron_eureka.rl.step_advantages import StepAdvantages
from megatron_eureka.runs.timers import Timers
from megatron_eureka.train import grpo
from megatron_eureka.train.policy import build_policy
from megatron_eureka.train.policy import step as policy_step
from megatron_eureka.train.schedule import learning_rate
from megatron_eureka.train.step import Step
from tests.model.reference import config_for, pixels
from tests.ranks import run_ranks


def _decayed(rank, world, model, layout):
    """By how much a step without gradients changes each weight, as a factor."""
    process_groups = groups.start(layout, seed=1, timeout_s=60)
    optimizer = {"lr": 0.1, "weight_decay": 0.5, "schedule": "constant", "warmup_fraction": 0.0}
    policy = build_policy(
        config_for(model, layout, optimizer=optimizer), ModelSource.open(model), layout, process_groups, pixels
    )
    with torch.no_grad():
        for parameter in policy.weights().values():
            parameter.add_(1.0)  # a bias of zeros would not show what became of it
        policy.optimizer.reload_model_params()
    before = {name: parameter.detach().clone() for name, parameter in policy.weights().items()}
    for chunk in policy.chunks:
        chunk.zero_grad_buffer()
    policy_step(policy, 0, 10)
    factors = {name: (weight / before[name]).detach() for name, weight in policy.weights().items()}
    groups.stop()
    return {name: (factor.min().item(), factor.max().item()) for name, factor in factors.items()}


@pytest.mark.parametrize("layout", [Layout(), Layout(tp=2, dp=1), Layout(dp=2)], ids=str)
def test_weight_decay_spares_norms_and_biases(tmp_path, layout):
    model = str(make_model(tmp_path / "hf", num_layers=2, std=0.06, seed=1))
    for found in run_ranks(layout.world_size, _decayed, model, layout):
        spared = {name for name in found if name.endswith("bias") or "norm" in name or "ln_q" in name}
        assert 20 < len(spared) < len(found) - 10
        for name, factors in found.items():
            expected = 1.0 if name in spared else 1.0 - 0.1 * 0.5  # 1 - lr x decay
            assert factors == pytest.approx((expected, expected), rel=1e-5), name  # float32


@pytest.mark.parametrize("num_batches", [4, 1, 2])
def test_a_short_step_takes_its_whole_share_of_the_schedule(monkeypatch, num_batches):
    """Four updates a step are planned; after two steps of one or two updates the third still starts at update 8."""
    config = Config.model_validate(
        {"rollout": {"prompts_per_step": 8, "samples_per_prompt": 4}, "train": {"samples_per_update": 8, "steps": 10}}
    )
    seen = []

    def update(policy, batch, number, num_updates):
        seen.append((number, num_updates, batch))
        return {}

    monkeypatch.setattr(grpo, "update", update)
    values = torch.arange(8.0 * num_batches)
    monkeypatch.setattr(grpo, "step_advantages", lambda *_: StepAdvantages(values, torch.ones(2 * num_batches)))
    run = SimpleNamespace(config=config, policy=None, timers=Timers(), step=2, updates=2 * num_batches)
    step = Step(SimpleNamespace(run=run, reference=None), number=3, collected=SimpleNamespace(groups=()))
    filled = SimpleNamespace(samples=[None] * 8, with_advantages=lambda values: values.tolist())
    step.batches = [filled] * num_batches
    grpo.compute_advantages(step)
    grpo.update_policy(step)
    assert len(step.updates) == num_batches and run.updates == 3 * num_batches
    expected = [(8 + 4 * i / num_batches, 40, list(range(8 * i, 8 * i + 8))) for i in range(num_batches)]
    assert seen == expected
    cosine = config.optimizer  # of 40 updates, 2 of warm-up: the rate of the place, not of the updates done
    assert learning_rate(seen[0][0], 40, cosine) < learning_rate(2 * num_batches, 40, cosine) or num_batches == 4

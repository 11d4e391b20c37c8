"""A run that is saved and loaded goes on exactly as the one that was not."""

import pytest
import torch

from examples.digits.model import make_model
from megatron_eureka.parallel import groups
from megatron_eureka.parallel.layout import Layout
from megatron_eureka.train import checkpoint
from megatron_eureka.train.policy import accumulate, build_policy, step
from tests.model.reference import config_for, pixels, rows_of
from tests.ranks import run_ranks

OPTIMIZER = {"lr": 1e-3, "schedule": "constant", "warmup_fraction": 0.0}


def _steps(rank, world, model, layout, folder, resume):
    """Four updates, saved after the second; or the last two of them from the checkpoint."""
    process_groups = groups.start(layout, seed=1, timeout_s=60)
    config = config_for(model, layout, optimizer=OPTIMIZER)
    policy = build_policy(config, layout, process_groups, pixels)
    rows = rows_of(policy, 4096) * (layout.pp if layout.vpp > 1 else 1)
    losses = []

    def row_loss(number, row, logprobs, entropies):
        loss = -logprobs.mean() if len(logprobs) else logprobs.sum()
        return loss, {"loss": loss.detach()}

    first = checkpoint.load(policy, folder / "step_2")["done"] if resume else 0
    for update in range(first, 4):
        losses += [float(report["loss"]) for report in accumulate(policy, rows, row_loss)]
        step(policy, update, 4)
        if update == 1 and not resume:
            checkpoint.save(policy, folder / "step_2", {"done": 2, "more": [1, "a"]}, keep=1)
    weights = {name: parameter.detach().clone() for name, parameter in policy.weights().items()}
    groups.stop()
    return losses, weights


@pytest.mark.slow
@pytest.mark.parametrize("layout", [Layout(tp=2), Layout(pp=2), Layout(dp=2), Layout(pp=2, vpp=2)], ids=str)
def test_resumed_training_is_bitwise_the_same(tmp_path, layout):
    model = str(make_model(tmp_path / "model", num_layers=4, std=0.06, seed=1))
    straight = run_ranks(layout.world_size, _steps, model, layout, tmp_path, False, timeout=120)
    resumed = run_ranks(layout.world_size, _steps, model, layout, tmp_path, True, timeout=120)
    for (losses, weights), (late_losses, late_weights) in zip(straight, resumed, strict=True):
        assert late_losses == losses[len(losses) // 2 :]
        assert all(torch.equal(late_weights[name], weight) for name, weight in weights.items())
    assert not list(tmp_path.glob("*.tmp"))

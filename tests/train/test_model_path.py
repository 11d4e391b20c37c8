"""One command line for both kinds of `model.path`: a run that starts from another run's Megatron checkpoint."""

import pytest
import torch
from safetensors.torch import load_file

from tests.train.runs import run

pytestmark = pytest.mark.slow

STANDS_STILL = {"train__steps": 1, "optimizer__lr": 1e-30}  # float32 weights do not feel such a step


@pytest.fixture(scope="module")
def trained(job):
    """A run on two data-parallel ranks: what it said, its checkpoint, and its weights as it exported them."""
    result = run("sft", job.sft_options("first", train__steps=2, checkpoint__export="true"))
    assert result.returncode == 0, result.stderr
    folder = job.run_folder("first")
    return result.stderr, folder / "checkpoints" / "step_2", load_file(folder / "export" / "model.safetensors")


def same(job, name, weights):
    exported = load_file(job.run_folder(name) / "export" / "model.safetensors")
    assert exported.keys() == weights.keys()
    assert [key for key in weights if not torch.equal(exported[key], weights[key])] == []


def test_grpo_under_another_layout_starts_from_the_weights_of_a_checkpoint(job, trained):
    said, checkpoint, weights = trained
    start = load_file(job.folder / "model" / "model.safetensors")
    assert any(not torch.equal(start[key], weights[key]) for key in weights)  # it did train
    assert f"weights from the Hugging Face folder {job.folder / 'model'}" in said
    options = job.options("second", model__path=checkpoint, checkpoint__export="true", **STANDS_STILL)
    result = run("train", options)
    assert result.returncode == 0, result.stderr
    assert f"weights from the Megatron checkpoint {checkpoint}" in result.stderr
    same(job, "second", weights)
    step = next(line for line in job.metrics("second") if "rollout_corr/probs_diff_max" in line)
    # The engine got the weights before its first sample: float32 rounding between two programs is all that differs.
    assert step["rollout_corr/probs_diff_max"] < 1e-4
    assert step["rollout/policy_version"] == 1


def test_a_plan_says_which_kind_was_found(job, trained):
    _, checkpoint, _ = trained
    for path, kind in ((checkpoint, "Megatron checkpoint"), (job.folder / "model", "Hugging Face folder")):
        result = run("train", [*job.options("plan", model__path=path), "--dry-run"])
        assert result.returncode == 0 and f"model: {kind} {path}\n" in result.stdout, result.stderr

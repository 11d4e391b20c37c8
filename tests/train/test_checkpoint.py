"""A run that is saved and loaded goes on exactly as the one that was not; another one can start from its weights."""

import math
import shutil
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync

from examples.digits.model import make_model
from megatron_eureka.checkpoints.companions import read_description
from megatron_eureka.checkpoints.torch_dist_index import load_metadata
from megatron_eureka.config.schema import Config
from megatron_eureka.data.stream import PromptStream
from megatron_eureka.families.folder import find_model_folder
from megatron_eureka.families.source import ModelSource
from megatron_eureka.model.norm import RMSNorm
from megatron_eureka.parallel import groups
from megatron_eureka.parallel.layout import Layout
from megatron_eureka.rollout.collect import Collector
from megatron_eureka.train import checkpoint
from megatron_eureka.train.policy import accumulate, build_policy, step
from megatron_eureka.train.train_row import TrainRow
from megatron_eureka.types import FinishReason, Group, ImageKey, Prompt, Sample, VersionSpan
from megatron_eureka.weights import rules_by_name
from tests.model import te_names
from tests.model.reference import config_for, pixels, rows_of
from tests.ranks import run_ranks

OPTIMIZER = {"lr": 1e-3, "schedule": "constant", "warmup_fraction": 0.0}


def _steps(rank, world, model, layout, folder, resume):
    """Four updates, saved after the second; or the last two of them from the checkpoint."""
    process_groups = groups.start(layout, seed=1, timeout_s=60)
    config = config_for(model, layout, optimizer=OPTIMIZER)
    policy = build_policy(config, ModelSource.open(config.model.path), layout, process_groups, pixels)
    rows = [TrainRow(row) for row in rows_of(policy, 4096) * (layout.pp if layout.vpp > 1 else 1)]
    losses = []

    def row_loss(row, logprobs, entropies):
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


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("hf") / "model", num_layers=4, std=0.06, seed=1)


def _policy(model, layout):
    process_groups = groups.start(layout, seed=1, timeout_s=60)
    policy = build_policy(config_for(str(model), layout), ModelSource.open(model), layout, process_groups, pixels)
    checkpoint._allocate_adam_state(policy)  # as after a step
    return policy


def _save_moved(rank, world, model, layout, folder):
    """A checkpoint whose weights are twice those of the model that the run started from."""
    policy = _policy(model, layout)
    with torch.no_grad():
        for parameter in policy.weights().values():
            parameter.mul_(2)
    checkpoint.save(policy, folder, {"step": 7}, keep=1)


def _weights(rank, world, model, layout):
    """Weights by their names under Transformer Engine's spec."""
    policy = _policy(model, layout)
    rules = rules_by_name(policy.info)
    return {rules[name].name: weight.detach() for name, weight in policy.weights().items()}


@pytest.mark.parametrize("spec", ["local", "te"])
def test_another_run_starts_from_the_weights_of_a_checkpoint(model, tmp_path, monkeypatch, spec):
    folder = tmp_path / "step_7"
    run_ranks(2, _save_moved, model, Layout(pp=2), folder)
    found = find_model_folder(folder)
    assert (found.kind, found.hf) == ("megatron", folder / "hf")
    assert read_description(folder).layout == {"tp": 1, "pp": 2, "vpp": 1}
    assert ModelSource.open(folder).info == ModelSource.open(model).info
    small = {file.name for file in model.iterdir()} - {"model.safetensors"}
    assert {file.name for file in (folder / "hf").iterdir()} == small
    before = run_ranks(2, _weights, model, Layout(tp=2))
    if spec == "te":
        te_names.use(monkeypatch)
    after = run_ranks(2, _weights, folder, Layout(tp=2))
    for old, new in zip(before, after, strict=True):
        assert old.keys() == new.keys()
        assert all(torch.equal(new[name], 2 * weight) for name, weight in old.items())


def _resume(rank, world, model, folder):
    try:
        return checkpoint.load(_policy(model, Layout()), folder)
    except ValueError as error:
        return str(error)


def test_a_run_does_not_resume_under_another_spec(model, tmp_path, monkeypatch):
    """24 of the 61 parameters would get the state of others, which fits."""
    folder = tmp_path / "step_7"
    run_ranks(1, _save_moved, model, Layout(), folder)
    assert run_ranks(1, _resume, model, folder) == [{"step": 7}]
    te_names.use(monkeypatch)
    (message,) = run_ranks(1, _resume, model, folder)
    assert "spec 'local'; this run has 'te'" in message and f"model.path={folder}" in message


def test_a_run_resumes_where_more_modules_have_an_extra_state(model, tmp_path, monkeypatch):
    """As under a newer Transformer Engine: what the checkpoint does not hold of it stays new."""
    folder = tmp_path / "step_7"
    te_names.use(monkeypatch)
    with monkeypatch.context() as older:
        older.setattr(te_names, "Norm", RMSNorm)
        run_ranks(1, _save_moved, model, Layout(), folder)
    keys = load_metadata(folder / ".metadata").state_dict_metadata.keys()
    assert not any("final_layernorm._extra_state" in key for key in keys)
    assert run_ranks(1, _resume, model, folder) == [{"step": 7}]


def _save_to_a_full_disk(rank, world, model, folder, owner, name, error):
    def full(*arguments, **options):
        raise error

    policy = _policy(model, Layout())
    setattr(owner, name, full)
    usage = shutil.disk_usage(folder.parent)
    shutil.disk_usage = lambda _: usage._replace(free=0)
    with pytest.raises(RuntimeError, match="step_7 could not be written. .* the disk of .* is full .*Make room"):
        checkpoint.save(policy, folder, {"step": 7}, keep=1)


@pytest.mark.parametrize(
    ("owner", "name", "error"),
    [
        (checkpoint, "describe", OSError(28, "No space left on device")),  # the small files
        (torch, "save", RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")),
        (FileSystemWriterAsync, "write_preloaded_data", OSError(28, "No space left on device")),  # the tensors
    ],
    ids=["small files", "progress", "tensors"],
)
def test_a_full_disk_is_named_and_nothing_half_written_stays(model, tmp_path, owner, name, error):
    run_ranks(1, _save_to_a_full_disk, model, tmp_path / "step_7", owner, name, error)
    assert list(tmp_path.iterdir()) == []


def _waiting_groups(number=float) -> list[Group]:
    """What a collector may hold: images, letters of every kind, a token that no engine drew, a user's numbers."""
    rewards = {"total": number(0.1), "accuracy": number(1)}
    sample = Sample(
        (5, 151643), (-0.1, math.nan), FinishReason.LENGTH, (VersionSpan(0, 3),), "x²\u2028 \0 漢字", rewards
    )
    key = ImageKey("ab" * 32, (1, 2, 4), 2)
    messages = ({"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "?"}]},)
    asked = Prompt("p0", "data.jsonl:1", messages, "3", (1, 9, 9, 2), (1, 9, 2), (key,))
    return [Group(asked, (sample, replace(sample, token_ids=(7,), engine_logprobs=(-1 / 3,)))), Group(asked, (sample,))]


def _as_of_old(group: Group) -> Group:
    """A group as older checkpoints pickled it: of today's classes, but with the fields that a sample had then."""
    samples = []
    for sample in group.samples:
        old = object.__new__(Sample)
        old.__dict__.update(
            {name: value for name, value in vars(sample).items() if name not in ("versions", "trained")}
        )
        old.__dict__.update(finish_reason=sample.finish_reason.value, policy_version=sample.policy_version)
        samples.append(old)
    return replace(group, samples=tuple(samples))


def _collector(groups: list[Group]) -> Collector:
    stream = PromptStream(num_prompts=7, seed=3)
    stream.take(9)
    collector = Collector(Config(), None, None, [], stream)
    collector.surplus = groups
    return collector


def _resume_with_groups(rank, world, model, folder, older):
    """Progress as a GRPO run saves it, through the files and back into another collector."""
    policy = _policy(model, Layout())
    state = _collector(_waiting_groups(np.float64)).state_dict()
    if older:  # until plain data took their place
        state["surplus"] = [_as_of_old(group) for group in _waiting_groups()]
    checkpoint.save(policy, folder, {"step": 7, "updates": 14, "policy_version": 7, "collector": state}, keep=1)
    loaded = checkpoint.load(policy, folder)
    restored = Collector(Config(), None, None, [], PromptStream(num_prompts=7, seed=3))
    restored.load_state_dict(loaded.pop("collector"))
    return loaded, restored.surplus, restored.stream.take(12)


@pytest.mark.parametrize("older", [False, True])
def test_groups_that_wait_go_through_a_checkpoint(model, tmp_path, older):
    folder = tmp_path / "step_7"
    ((numbers, surplus, order),) = run_ranks(1, _resume_with_groups, model, folder, older)
    assert numbers == {"step": 7, "updates": 14, "policy_version": 7}
    expected = _waiting_groups()
    if older:  # one version a sample, every token trained
        since = {"versions": (VersionSpan(0, 3),), "trained": ()}
        expected = [replace(g, samples=tuple(replace(s, **since) for s in g.samples)) for g in expected]
    assert repr(surplus) == repr(expected)  # NaN is not equal to itself
    assert order == _collector([]).stream.take(12)
    # Such a checkpoint is a model as well.
    (mine, _), (theirs, _) = (run_ranks(2, _weights, start, Layout(tp=2)) for start in (folder, model))
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in theirs)


def _resume_from_strange_pickle(rank, world, model, folder):
    checkpoint.save(_policy(model, Layout()), folder, {"step": 7, "strange": Fraction(1, 2)}, keep=1)
    return _resume(rank, world, model, folder)


def test_a_checkpoint_with_any_other_class_is_not_loaded(model, tmp_path):
    (message,) = run_ranks(1, _resume_from_strange_pickle, model, tmp_path / "step_7")
    assert "common.pt is missing or damaged" in message and "fractions.Fraction" in message


def _save_three(rank, world, model, folder):
    policy = _policy(model, Layout())
    for number in (1, 9, 10):
        checkpoint.save(policy, folder / f"step_{number}", {"step": number}, keep=2)


def test_as_many_checkpoints_stay_as_were_asked_for(model, tmp_path):
    run_ranks(1, _save_three, model, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_10", "step_9"]

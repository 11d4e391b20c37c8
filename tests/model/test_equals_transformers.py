"""Our model on every layout against transformers on one sequence at a time: logits, log-probs, gradients."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from examples.digits.model import make_model
from megatron_eureka.parallel.layout import Layout
from tests.model.reference import hf_reference, merge, run_ours
from tests.ranks import run_ranks

# Two correct float32 programs that sum in another order: logits of size about 5 through 4 layers.
CLOSE = 1e-5
# The same sums cut over ranks.
CLOSER = 5e-6

LAYOUTS = {
    "tp2": (Layout(tp=2), {}),
    "tp2 sp": (Layout(tp=2), {"sp": True}),
    "pp2": (Layout(pp=2), {}),
    "tp2 pp2": (Layout(tp=2, pp=2), {}),
    "tp2 pp2 sp": (Layout(tp=2, pp=2), {"sp": True}),
    "pp2 vpp2": (Layout(pp=2, vpp=2), {"max_tokens": 45}),
    "pp4": (Layout(pp=4), {"max_tokens": 45}),
    "dp2": (Layout(dp=2), {}),
    "tp2 dp2 sp": (Layout(tp=2, dp=2), {"sp": True}),
    "a row a response": (Layout(), {"one_by_one": True, "max_tokens": 40}),
    "small rows": (Layout(), {"max_tokens": 45}),
    "pp2, a row a response": (Layout(pp=2), {"one_by_one": True, "max_tokens": 40}),
    "recompute": (Layout(), {"recompute": "full"}),
}


def sharpen(folder, factor=2.0):
    """Scale the final norm, so that small weights (little rounding) still give logits that differ by units."""
    file = str(folder / "model.safetensors")
    tensors = load_file(file)
    tensors["model.norm.weight"] *= factor
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def model(request, tmp_path_factory):
    """A model whose logits have a standard deviation of at least 1, transformers' numbers and ours on one rank."""
    folder = tmp_path_factory.mktemp("model") / "hf"
    make_model(folder, tied=request.param, num_layers=4, std=0.06, seed=1)
    sharpen(folder)
    reference = hf_reference(str(folder))
    assert torch.cat(reference["logits"]).std() >= 1
    assert all(grad.norm() > 0 for grad in reference["grads"].values())
    return str(folder), reference, merge(run_ranks(1, run_ours, str(folder), Layout(), {}))


def relative_errors(grads: dict, expected: dict) -> dict:
    return {name: ((grads[name] - grad).norm() / grad.norm()).item() for name, grad in expected.items()}


def test_one_rank_equals_transformers(model):
    _, reference, ours = model
    for got, expected in zip(ours["logits"], reference["logits"], strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=CLOSE)
    torch.testing.assert_close(ours["logprobs"], reference["logprobs"], rtol=0, atol=CLOSE)
    torch.testing.assert_close(ours["entropies"], reference["entropies"], rtol=0, atol=CLOSE)
    assert ours["loss"] == pytest.approx(reference["loss"], abs=CLOSE)


def test_gradients_equal_transformers_and_none_is_zero(model):
    _, reference, ours = model
    assert ours["grads"].keys() == reference["grads"].keys()
    worst = max(relative_errors(ours["grads"], reference["grads"]).values())
    assert worst < 1e-5  # of each tensor's norm: accumulated float32 rounding of about 40 operations


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_and_cut_gives_the_same(model, name):
    folder, reference, one = model
    layout, options = LAYOUTS[name]
    ours = merge(run_ranks(layout.world_size, run_ours, folder, layout, options))
    torch.testing.assert_close(ours["logprobs"], one["logprobs"], rtol=0, atol=CLOSER)
    torch.testing.assert_close(ours["entropies"], one["entropies"], rtol=0, atol=CLOSER)
    assert ours["loss"] == pytest.approx(one["loss"], abs=CLOSER)
    assert ours["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-5)
    if layout.dp == 1:  # with replicas, each holds the sum of its part of the parameters only
        assert max(relative_errors(ours["grads"], reference["grads"]).values()) < 1e-5
    for got, expected in zip(ours["logits"], one["logits"], strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=CLOSER)


def test_a_frozen_tower_encoded_once_gives_the_same(model):
    folder, reference, one = model
    for layout in (Layout(), Layout(tp=2), Layout(pp=2)):
        ours = merge(run_ranks(layout.world_size, run_ours, folder, layout, {"freeze_vision": True}))
        # the images are batched another way through the tower
        torch.testing.assert_close(ours["logprobs"], one["logprobs"], rtol=0, atol=CLOSE)
        assert not any(name.startswith("visual.") for name in ours["grads"])
        expected = {name: grad for name, grad in reference["grads"].items() if not name.startswith("visual.")}
        assert max(relative_errors(ours["grads"], expected).values()) < 1e-5


@pytest.mark.parametrize("layout", [Layout(), Layout(tp=2)], ids=str)
def test_temperature_and_banned_tokens_equal_transformers(model, layout):
    folder, plain, _ = model
    banned = (2, 60, 191, 192, 340, 383)  # on both sides of the cut at 192, none of them in a response
    expected = hf_reference(folder, temperature=0.7, banned=banned)
    assert (expected["logprobs"] - plain["logprobs"]).abs().min() > 1e-3  # each token feels them
    options = {"rollout": {"temperature": 0.7}, "banned": banned, "max_tokens": 45}
    ours = merge(run_ranks(layout.world_size, run_ours, folder, layout, options))
    # Logits over 0.7: their rounding grows as much.
    torch.testing.assert_close(ours["logprobs"], expected["logprobs"], rtol=0, atol=CLOSE / 0.7)
    torch.testing.assert_close(ours["entropies"], expected["entropies"], rtol=0, atol=CLOSE / 0.7)
    assert ours["loss"] == pytest.approx(expected["loss"], abs=CLOSE / 0.7)
    assert max(relative_errors(ours["grads"], expected["grads"]).values()) < 1e-5  # as without them


def without_images(row):
    return replace(row, image_index=row.image_index[:0], images=())


def plain_positions(row):
    return replace(row, positions=torch.arange(len(row.token_ids)).expand(3, -1).contiguous())


@pytest.mark.parametrize("change_row", [without_images, plain_positions])
def test_images_and_their_positions_matter(model, change_row):
    """Guards the tests above: a model that ignored images or M-RoPE would not pass them by chance."""
    folder, reference, one = model
    ours = merge(run_ranks(1, run_ours, folder, Layout(), {"change_row": change_row, "freeze_vision": True}))
    assert (ours["logprobs"] - one["logprobs"]).abs().max() > 1e-2
    changes = [(got - known).abs().max() for got, known in zip(ours["logits"], one["logits"], strict=True)]
    # The first response of a case stands right behind its prompt, where plain positions differ by the images alone.
    after_images, after_text = (0, 5), 3
    assert all(changes[sample] > 1e-2 for sample in after_images)
    # Without an image nothing changes but where the prompt starts; the angles of far positions round otherwise.
    assert changes[after_text] < 1e-4

"""The stream of full tensors: exact on every rank, for every layout and bucket size."""

import pytest
import torch
from safetensors.torch import load_file

from megatron_eureka.bridge import ShardedSource
from megatron_eureka.checkpoints import export_hf
from megatron_eureka.families.source import ModelSource
from megatron_eureka.weights import hf_tensors
from tests.bridge.trainers import grid, shards
from tests.checkpoints.stages import empty_stage
from tests.ranks import run_ranks

VISUAL = "visual."


def collect(stream):
    result = {}
    for name, tensor in stream:
        assert name not in result
        result[name] = tensor
    return result


def stream_everything(rank, world, folder, tp, pp, spec, target):
    tp_group, pp_group = grid(rank, tp, pp)
    info, parameters = shards(folder, rank, tp, pp, spec)
    for name, tensor in parameters.items():  # the same values in memory that no collective may read as it lies
        if tensor.dim() == 2:
            parameters[name] = tensor.t().contiguous().t()
    expected = load_file(folder / "model.safetensors")
    frozen = _tower(info)
    for bucket_bytes in (512 << 20, 50_001):
        source = ShardedSource(
            parameters, info, tp_group=tp_group, pp_group=pp_group, bucket_bytes=bucket_bytes, frozen=frozen
        )
        received = collect(source.stream())
        assert list(received) == list(hf_tensors(info))
        assert all(torch.equal(received[name], expected[name]) for name in expected)
    with torch.no_grad():
        parameters[next(reversed(parameters))].mul_(2)  # streams read the live tensors
    frozen_everywhere = ShardedSource(parameters, info, tp_group=tp_group, pp_group=pp_group, frozen=_tower(info))
    received = collect(frozen_everywhere.stream(include_frozen=False))
    assert received.keys() == {name for name in expected if not name.startswith(VISUAL)}
    changed = {name for name in received if not torch.equal(received[name], expected[name])}
    export_hf(frozen_everywhere.stream(), target, folder, frozen_everywhere.num_tensors, rank == 0)
    return changed


def _tower(info):
    return [name for name in hf_tensors(info) if name.startswith(VISUAL)]


@pytest.mark.parametrize(
    ("kind", "tp", "pp", "spec"),
    [
        ("untied", 1, 1, "te"),
        ("untied", 2, 1, "te"),
        ("untied", 1, 2, "local"),
        ("untied", 2, 2, "te"),
        ("untied", 4, 1, "local"),
        ("tied", 2, 1, "local"),
        ("tied", 1, 2, "te"),
        ("tied", 2, 2, "te"),
    ],
)
def test_stream_equals_the_checkpoint(request, tmp_path, kind, tp, pp, spec):
    folder, target = request.getfixturevalue(kind), tmp_path / "export"
    results = run_ranks(tp * pp, stream_everything, folder, tp, pp, spec, target)
    assert all(result == results[0] for result in results)
    # The last parameter of the table on the last stage is the head; a tied one is no tensor of its own.
    is_copy = kind == "tied" and pp > 1
    last = "lm_head.weight" if kind == "untied" else "model.norm.weight"
    if not is_copy:
        assert last in results[0]
    original, exported = load_file(folder / "model.safetensors"), load_file(target / "model.safetensors")
    assert exported.keys() == original.keys()
    assert {name for name in original if not torch.equal(original[name], exported[name])} == results[0]


def test_what_the_stages_lack_is_named(untied):
    info = ModelSource.open(untied).info
    whole = empty_stage(info, 0, 1, 1)
    with pytest.raises(ValueError, match=r"linear_fc2.weight is held by pipeline stages \[\], expected exactly one"):
        ShardedSource({name: tensor for name, tensor in whole.items() if "layers.1.mlp.linear_fc2" not in name}, info)
    with pytest.raises(ValueError, match="No rule for parameter 'language_model.x'"):
        ShardedSource({**whole, "language_model.x": torch.empty(1)}, info)
    with pytest.raises(ValueError, match=r"has shape \[1\], expected \[384, 256\]"):
        ShardedSource({**whole, "language_model.output_layer.weight": torch.empty(1)}, info)


def _frozen_of_one_stage(rank, world, folder):
    tp_group, pp_group = grid(rank, 1, 2)
    info, parameters = shards(folder, rank, 1, 2, "te")
    mine = [name for name in parameters if name.startswith(VISUAL)]  # what a stage would say of itself
    with pytest.raises(ValueError, match="different frozen names"):
        ShardedSource(parameters, info, tp_group=tp_group, pp_group=pp_group, frozen=mine)


def test_stages_that_disagree_on_frozen_names_are_refused(untied):
    """Their streams would hold other tensors, and the collectives would pair up wrongly."""
    run_ranks(2, _frozen_of_one_stage, untied)

"""Megatron checkpoints under every layout, both specs and both dtypes, and what is said of those that do not fit."""

import json
import shutil

import pytest
import torch
from megatron.core.tensor_parallel import RowParallelLinear
from safetensors.torch import load_file, save_file

from examples.digits.model import make_model
from megatron_eureka.checkpoints import hf_to_megatron
from megatron_eureka.checkpoints.torch_dist_index import load_metadata
from megatron_eureka.families.source import ModelSource
from megatron_eureka.model.spec import DTYPES
from megatron_eureka.parallel.layout import Layout
from megatron_eureka.weights import table
from tests.checkpoints.models import differing, rejection, save
from tests.model import te_names
from tests.model.reference import merge, run_ours
from tests.ranks import run_ranks

SIZES = {"std": 0.15, "hidden_size": 256, "num_heads": 8, "num_kv_heads": 4, "num_layers": 4}


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def hf(request, tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("hf") / "model", tied=request.param, **SIZES)


@pytest.fixture(scope="module")
def untied(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("hf") / "untied", **SIZES)


@pytest.fixture(scope="module")
def checkpoint(untied, tmp_path_factory):
    """Written by one rank."""
    return write(untied, Layout(), tmp_path_factory.mktemp("megatron") / "checkpoint")


def check(hf, layout, folder, **options):
    """Every parameter of the model is on some rank, and each one is that of the Hugging Face folder to the bit."""
    results = run_ranks(layout.world_size, with_options, differing, hf, layout, folder, options)
    assert [names for names, _ in results] == [[]] * layout.world_size
    held = {name for _, names in results for name in names}
    info = ModelSource.open(hf).info
    everything = {rule.alias if not options.get("te") and rule.alias else rule.name for rule in table(info)}
    if info.tied and layout.pp == 1:
        everything.remove("language_model.output_layer.weight")
    assert held == everything


def with_options(rank, world, function, hf, layout, folder, options):
    return function(rank, world, hf, layout, folder, **options)


def write(hf, layout, folder, **options):
    run_ranks(layout.world_size, with_options, save, hf, layout, folder, options)
    return folder


TO_AND_FROM = [
    (Layout(), (Layout(tp=4), Layout(pp=4), Layout(pp=2, vpp=2))),
    (Layout(tp=2, pp=2, vpp=2), (Layout(), Layout(tp=2, pp=2), Layout(tp=2, dp=2))),
]


@pytest.mark.slow
@pytest.mark.parametrize("saved, loaded", TO_AND_FROM, ids=["from one rank", "from tp2 pp2 vpp2"])
def test_a_checkpoint_of_one_layout_loads_under_others(hf, tmp_path, saved, loaded):
    folder = write(hf, saved, tmp_path / "checkpoint")
    for layout in loaded:
        check(hf, layout, folder)


@pytest.mark.parametrize("saved", ["te", "local", "without extra state"])
def test_a_checkpoint_of_either_spec_loads_under_the_other(untied, tmp_path, saved):
    options = {"te": saved == "te", "bare": saved == "without extra state"}
    folder = write(untied, Layout(pp=2), tmp_path / "checkpoint", **options)
    for te in (True, False):
        check(untied, Layout(tp=2), folder, te=te)


def test_the_spec_with_other_names_is_the_same_model(untied, monkeypatch):
    """Guards the test above: norms in other modules, and nothing else."""
    local = merge(run_ranks(1, run_ours, str(untied), Layout(), {}))
    te_names.use(monkeypatch)
    other = merge(run_ranks(1, run_ours, str(untied), Layout(), {}))
    # the same float32 operations; logits of some ten units
    torch.testing.assert_close(other["logprobs"], local["logprobs"], rtol=0, atol=1e-5)
    assert other["grads"].keys() == local["grads"].keys()


@pytest.mark.parametrize("te", [False, True], ids=["local", "te"])
def test_layers_that_are_stored_one_by_one_load_too(untied, tmp_path, te):
    folder = write(untied, Layout(tp=2), tmp_path / "checkpoint", one_by_one=True)
    for layout in (Layout(), Layout(pp=2, vpp=2)):
        check(untied, layout, folder, te=te)


@pytest.mark.parametrize("stored, wanted", [("bf16", "fp32"), ("fp32", "bf16")])
def test_values_are_cast_to_the_dtype_of_the_run(hf, tmp_path, stored, wanted):
    folder = write(hf, Layout(), tmp_path / "checkpoint", dtype=stored)
    check(hf, Layout(tp=2, pp=2), folder, dtype=wanted, stored_dtype=DTYPES[stored])


@pytest.mark.parametrize("name", ["model.layers.3.mlp.down_proj.weight", "visual.merger.ln_q.weight"])
def test_a_value_that_is_no_number_is_found_at_the_load(untied, tmp_path, name):
    hf = shutil.copytree(untied, tmp_path / "hf")
    tensors = load_file(hf / "model.safetensors")
    tensors[name].view(-1)[5] = torch.nan
    save_file(tensors, hf / "model.safetensors")
    hf_to_megatron(hf, tmp_path / "checkpoint", check_finite=False)
    (message,) = run_ranks(1, rejection, hf, Layout(), tmp_path / "checkpoint")
    assert repr(name) in message and "holds 1 values that are infinite or no numbers" in message


@pytest.fixture
def copy(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "copy")


def rejected(hf, folder, *parts, axis="tp"):
    """Both ranks refuse the checkpoint, and say all parts and which folder."""
    for message in run_ranks(2, rejection, hf, Layout(**{axis: 2}), folder):
        for part in (str(folder), *parts):
            assert part in message, message


class Trap:
    """A pickle that leaves a file where it was opened."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


def test_nothing_in_a_checkpoint_is_run(untied, tmp_path, monkeypatch):
    trap = Trap(tmp_path / "opened")
    monkeypatch.setattr(RowParallelLinear, "get_extra_state", lambda self: trap)
    folder = write(untied, Layout(), tmp_path / "checkpoint")
    assert b"opened" in next(folder.glob("*.distcp")).read_bytes()
    check(untied, Layout(tp=2), folder)
    assert not trap.file.exists()
    torch.save(trap, folder / "common.pt")
    rejected(untied, folder, "common.pt is missing or damaged")
    assert not trap.file.exists()


def test_a_missing_a_cut_off_and_a_damaged_file_are_named(untied, copy):
    places = load_metadata(copy / ".metadata").storage_data
    place = next(place for index, place in places.items() if index.fqn == "language_model.output_layer.weight")
    file = copy / place.relative_path
    content, end = file.read_bytes(), place.offset + place.length
    file.write_bytes(content[: end - 100] + bytes(100) + content[end:])
    rejected(untied, copy, file.name, "is damaged", "Copy the checkpoint again")
    file.write_bytes(content[:-100])
    rejected(untied, copy, file.name, "is cut off")
    file.unlink()
    rejected(untied, copy, file.name, "is missing")


def test_a_missing_or_damaged_file_of_plain_objects_is_named(untied, copy):
    (copy / "common.pt").write_bytes(b"this is text")
    rejected(untied, copy, "common.pt is missing or damaged")
    (copy / "common.pt").unlink()
    rejected(untied, copy, "common.pt is missing or damaged: [Errno 2]")


def test_a_checkpoint_of_another_model_is_refused_by_all_ranks(untied, checkpoint, tmp_path):
    wider = make_model(tmp_path / "wider", **SIZES | {"ffn_size": 512})
    rejected(wider, checkpoint, "linear_fc1.weight", "[4, 512, 256], expected [4, 1024, 256]")
    deeper = make_model(tmp_path / "deeper", **SIZES | {"num_layers": 8})
    rejected(deeper, checkpoint, "[4, 256], expected [8, 256]")
    # the head is on the last stage alone; the first one refuses as well, or it would wait there
    tied = write(make_model(tmp_path / "tied", tied=True, **SIZES), Layout(), tmp_path / "checkpoint")
    rejected(untied, tied, "language_model.output_layer.weight", axis="pp")


def test_a_checkpoint_of_another_table_is_refused(untied, copy):
    file = copy / "megatron_eureka.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"table_version": 99}))
    rejected(untied, copy, "version 99 of the table")
    file.unlink()  # written by Megatron-Core alone
    check(untied, Layout(), copy)


@pytest.mark.parametrize("hashed", [True, False])
def test_a_changed_bit_is_refused_by_all_ranks(untied, tmp_path, hashed):
    """By the hash of a converted checkpoint, by the check sums of any other; each rank reads a share."""
    folder = tmp_path / "checkpoint"
    hf_to_megatron(untied, folder, tp=2)
    if not hashed:
        (folder / "megatron_eureka.json").unlink()
    file = folder / "__1_0.distcp"
    content = bytearray(file.read_bytes())
    content[len(content) // 2 + 5000] ^= 1  # well inside the 256 KiB of a chunk
    file.write_bytes(content)
    messages = run_ranks(2, rejection, untied, Layout(tp=2), folder)
    assert messages[0] == messages[1]
    assert ("have the hash" if hashed else f"{file} is damaged") in messages[0]

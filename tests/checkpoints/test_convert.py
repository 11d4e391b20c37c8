"""Conversion both ways: exact under every layout, in the format that torch and Megatron-Core read, and verifiable."""

import io
import json
import pickle
import re
import shutil
import zipfile
import zlib
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_eureka.checkpoints import (
    checkpoint_plan,
    companions,
    hf_to_megatron,
    megatron_to_hf,
    read_description,
    save_hf,
    streaming,
    to_megatron,
    verify,
)
from megatron_eureka.checkpoints.stored import pipeline_stage
from megatron_eureka.checkpoints.torch_dist import data_offset, frame
from megatron_eureka.families.source import ModelSource
from megatron_eureka.weights import shard_shape, table
from tests.checkpoints.reference import assert_equal, expected_checkpoint, read_checkpoint
from tests.checkpoints.test_save import read_all

LAYOUTS = [(tp, pp, vpp) for tp in (1, 2, 4) for pp in (1, 2, 4) for vpp in (1, 2) if vpp == 1 or pp > 1]


@pytest.fixture(scope="session", params=["tied", "untied"])
def model(request):
    return request.getfixturevalue(f"{request.param}_8_layers")


@pytest.mark.parametrize(("tp", "pp", "vpp"), LAYOUTS)
def test_round_trip_is_exact(model, tmp_path, tp, pp, vpp):
    there = hf_to_megatron(model, tmp_path / "megatron", tp=tp, pp=pp, vpp=vpp)
    back = megatron_to_hf(tmp_path / "megatron", tmp_path / "hf")
    original, info = load_file(model / "model.safetensors"), ModelSource.open(model).info
    assert_equal(read_all(tmp_path / "hf"), original)
    assert_equal(read_checkpoint(tmp_path / "megatron"), expected_checkpoint(original, info))
    assert there.weights_hash == back.weights_hash
    assert verify(model, tmp_path / "megatron").equal
    small = {file.name: file.read_bytes() for file in model.iterdir() if file.suffix != ".safetensors"}
    for folder in (tmp_path / "hf", tmp_path / "megatron" / "hf"):
        assert {f.name: f.read_bytes() for f in folder.iterdir() if f.suffix != ".safetensors"} == small


@pytest.mark.slow
@pytest.mark.parametrize("tp", [1, 2, 4])
def test_boxes_and_blocks_may_end_anywhere(model, tmp_path, monkeypatch, tp):
    """Boxes and blocks far smaller than a head: cuts go through groups of heads and through gate and up."""
    small = partial(checkpoint_plan.plan_checkpoint, max_box_bytes=3 * 256 * 4)  # three rows of the hidden size
    monkeypatch.setattr(to_megatron, "plan_checkpoint", small)
    monkeypatch.setattr(streaming, "BLOCK_BYTES", 2 * 256 * 4)
    hf_to_megatron(model, tmp_path / "megatron", tp=tp)
    original = load_file(model / "model.safetensors")
    assert_equal(read_checkpoint(tmp_path / "megatron"), expected_checkpoint(original, ModelSource.open(model).info))
    megatron_to_hf(tmp_path / "megatron", tmp_path / "hf")
    assert_equal(read_all(tmp_path / "hf"), original)


@pytest.mark.parametrize(("tp", "pp", "vpp"), [(1, 1, 1), (2, 2, 2), (4, 4, 1)])
def test_each_rank_has_one_file_with_what_it_reads(model, tmp_path, tp, pp, vpp):
    """The bytes in a rank's file are the sizes of its parameters; replicated ones lie with the first of the ranks."""
    hf_to_megatron(model, tmp_path / "megatron", tp=tp, pp=pp, vpp=vpp)
    info = ModelSource.open(model).info
    expected = dict.fromkeys((f"__{rank}_0.distcp" for rank in range(tp * pp)), 0)
    for rule in table(info):
        if rule.exported:
            stage = pipeline_stage(rule, info.num_layers, pp, vpp)
            for tp_rank in range(1 if rule.tp_dim is None else tp):
                expected[f"__{tp_rank + tp * stage}_0.distcp"] += torch.Size(shard_shape(rule, tp)).numel() * 4
    found = dict.fromkeys(expected, 0)
    for index, archive, tensor in boxes(tmp_path / "megatron"):
        found[archive.relative_path] += tensor.nbytes
        if tp > 1 and "linear_fc2.weight" in index.fqn:  # cut along columns: each rank's are its own, contiguous
            assert tensor.shape[-1] == info.ffn_size // tp
    assert found == expected


def boxes(folder):
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    for index, archive in metadata.storage_data.items():
        if hasattr(metadata.state_dict_metadata[index.fqn], "size"):
            data = (folder / archive.relative_path).read_bytes()[archive.offset : archive.offset + archive.length]
            assert zipfile.ZipFile(io.BytesIO(data)).testzip() is None  # the check sums are right
            yield index, archive, torch.load(io.BytesIO(data))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("sizes", [(1, 3, 5), (7,), (2, 3, 4, 5)])
def test_an_archive_is_what_torch_writes(sizes, dtype):
    """To the byte, but for an id of the archive that torch makes of all check sums and nobody reads."""
    tensor = torch.randn(sizes).to(dtype)
    data, ours, theirs = bytes(tensor.flatten().view(torch.uint8).numpy()), frame(sizes, dtype), io.BytesIO()
    torch.save(tensor, theirs)
    archive = bytearray(ours.head + data + ours.tail_for(zlib.crc32(data)))
    theirs = bytearray(theirs.getvalue())
    assert len(archive) == len(theirs)
    for file in (archive, theirs):
        record = next(
            r for r in zipfile.ZipFile(io.BytesIO(file)).infolist() if r.filename.endswith("serialization_id")
        )
        start = file.index(record.filename.encode()) + len(record.filename)
        file[start : start + 200] = file[start : start + 200].replace(record.CRC.to_bytes(4, "little"), bytes(4))
        end = file.rindex(record.filename.encode()) - 46
        file[end + 16 : end + 20] = bytes(4)
        content = data_offset(io.BytesIO(file), record)
        file[content : content + record.file_size] = bytes(record.file_size)
    assert archive == theirs


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_dtype_of_the_source_is_kept_and_may_be_changed(untied, tmp_path, dtype):
    original = {name: tensor.to(dtype) for name, tensor in load_file(untied / "model.safetensors").items()}
    save_hf(tmp_path / "source", original.items(), untied)
    hf_to_megatron(tmp_path / "source", tmp_path / "same")
    megatron_to_hf(tmp_path / "same", tmp_path / "back")
    assert_equal(read_all(tmp_path / "back"), original)
    hf_to_megatron(tmp_path / "source", tmp_path / "cast", dtype=torch.bfloat16)
    cast = {name: tensor.bfloat16() for name, tensor in original.items()}
    assert_equal(read_checkpoint(tmp_path / "cast"), expected_checkpoint(cast, ModelSource.open(untied).info))
    megatron_to_hf(tmp_path / "cast", tmp_path / "cast_back")
    assert_equal(read_all(tmp_path / "cast_back"), cast)
    assert json.loads((tmp_path / "cast_back" / "config.json").read_text())["dtype"] == "bfloat16"
    header = (tmp_path / "cast_back" / "model.safetensors").read_bytes()[:8]
    assert int.from_bytes(header, "little") % 8 == 0  # the data is aligned, as safetensors' own writer does it
    description = read_description(tmp_path / "cast")
    assert (description.weights_hash == description.source_hash) == (dtype == torch.bfloat16)
    assert description.source_hash == read_description(tmp_path / "same").weights_hash


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_the_dtype_is_set_wherever_the_config_has_one(untied, tmp_path, key):
    config = json.loads((untied / "config.json").read_text()) | {key: "float32"}
    config |= {"text_config": {key: "float32", "a": 1}, "vision_config": {key: "float32"}}
    other = "dtype" if key == "torch_dtype" else "torch_dtype"
    config.pop(other, None)
    for folder in ("source", "target"):
        (tmp_path / folder).mkdir()
    (tmp_path / "source" / "config.json").write_text(json.dumps(config))
    (tmp_path / "source" / "additional_chat_templates").mkdir()
    (tmp_path / "source" / "additional_chat_templates" / "tools.jinja").write_text("{{ x }}")
    companions.copy_companions(tmp_path / "source", tmp_path / "target", torch.bfloat16)
    written = json.loads((tmp_path / "target" / "config.json").read_text())
    changed = {"text_config": {key: "bfloat16", "a": 1}, "vision_config": {key: "bfloat16"}, key: "bfloat16"}
    assert written == config | changed
    assert (tmp_path / "target" / "additional_chat_templates" / "tools.jinja").read_text() == "{{ x }}"


def test_hash_does_not_depend_on_files_names_or_layout(untied, tmp_path):
    tensors = load_file(untied / "model.safetensors")
    save_hf(tmp_path / "sharded", sorted(tensors.items(), reverse=True), untied, max_file_bytes=300_000)
    one = hf_to_megatron(untied, tmp_path / "one")
    two = hf_to_megatron(tmp_path / "sharded", tmp_path / "two", tp=4, workers=1)
    assert one.weights_hash == two.weights_hash
    newer = {re.sub("^(model|visual)", r"model.\1", name): tensor for name, tensor in tensors.items()}
    newer = {name.replace("model.model.", "model.language_model."): tensor for name, tensor in newer.items()}
    shutil.copytree(untied, tmp_path / "newer")
    save_file(newer, tmp_path / "newer" / "model.safetensors")
    assert "model.language_model.norm.weight" in newer and "model.visual.merger.ln_q.weight" in newer
    assert hf_to_megatron(tmp_path / "newer", tmp_path / "four").weights_hash == one.weights_hash
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name][0, 0] = -tensors[name][0, 0]
    save_hf(tmp_path / "changed", tensors.items(), untied)
    assert hf_to_megatron(tmp_path / "changed", tmp_path / "three").weights_hash != one.weights_hash


def test_verify_names_what_differs(untied, tmp_path):
    hf_to_megatron(untied, tmp_path / "megatron", tp=2)
    tensors = load_file(untied / "model.safetensors")
    tensors["model.layers.2.self_attn.k_proj.weight"][5, 7] += 1.0
    tensors["model.norm.weight"][[3, 4]] = torch.nan
    save_hf(tmp_path / "other", tensors.items(), untied)
    result = verify(tmp_path / "other", tmp_path / "megatron")
    assert not result.equal and "DIFFERENT: 2 of 69 tensors" in str(result)
    key, norm = result.differences
    assert (key.name, key.num_different, key.first) == ("model.layers.2.self_attn.k_proj.weight", 1, (5, 7))
    assert key.largest == pytest.approx(1.0, rel=1e-6)  # one sum in float32
    assert (norm.name, norm.num_different, norm.first) == ("model.norm.weight", 2, (3,))
    assert norm.largest != norm.largest


def test_verify_compares_bits(untied, tmp_path):
    """Minus zero is not zero, and a NaN is itself."""
    tensors = load_file(untied / "model.safetensors")
    tensors["model.norm.weight"][:2] = torch.tensor([0.0, torch.nan])
    save_hf(tmp_path / "source", tensors.items(), untied)
    hf_to_megatron(tmp_path / "source", tmp_path / "megatron", check_finite=False)
    assert verify(tmp_path / "source", tmp_path / "megatron").equal
    tensors["model.norm.weight"][0] = -0.0
    save_hf(tmp_path / "other", tensors.items(), untied)
    result = verify(tmp_path / "other", tmp_path / "megatron")
    assert [d.first for d in result.differences] == [(0,)]


def test_verify_compares_after_the_cast(untied, tmp_path):
    hf_to_megatron(untied, tmp_path / "megatron", dtype=torch.bfloat16)
    result = verify(untied, tmp_path / "megatron")
    assert result.equal and len(result.cast) == 69
    assert "69 of them after the cast" in str(result)

"""What conversions refuse of their sources, how they say it, and that they leave nothing behind."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from examples.digits.model import make_model
from megatron_eureka.checkpoints import hf_to_megatron, megatron_to_hf, save_hf, verify
from megatron_eureka.checkpoints.torch_dist_reader import TorchDistReader
from tests.checkpoints.reference import assert_equal, read_checkpoint
from tests.checkpoints.rejections import K_PROJ, rejected, rewrite
from tests.checkpoints.test_save import read_all

ROOT = Path(__file__).resolve().parents[2]
NORM = "language_model.decoder.final_layernorm.weight"


# --- Hugging Face sources ------------------------------------------------------------------------------------------


def shard(folder):
    """Rewrite a folder as several files with an index."""
    tensors = load_file(folder / "model.safetensors")
    save_hf(folder.with_name("sharded"), tensors.items(), folder, max_file_bytes=1_000_000)
    shutil.rmtree(folder)
    folder.with_name("sharded").rename(folder)
    return folder / "model.safetensors.index.json"


def test_a_missing_shard_is_named(hf, tmp_path):
    shard(hf)
    next(hf.glob("model-00002-*")).unlink()
    rejected(hf_to_megatron, hf, tmp_path / "out", "model-00002-of", "is missing, though model.safetensors.index.json")


def test_an_index_that_names_what_is_not_there(hf, tmp_path):
    index = shard(hf)
    content = json.loads(index.read_text())
    content["weight_map"]["model.layers.0.None"] = content["weight_map"][K_PROJ]
    index.write_text(json.dumps(content))
    rejected(hf_to_megatron, hf, tmp_path / "out", "'model.layers.0.None'", "which does not hold it")
    index.write_text("{")
    rejected(hf_to_megatron, hf, tmp_path / "out", "index.json is damaged")


def test_an_index_that_names_another_shard_than_holds_it(hf, tmp_path):
    index = shard(hf)
    content = json.loads(index.read_text())
    content["weight_map"][K_PROJ] = next(
        s for s in content["weight_map"].values() if s != content["weight_map"][K_PROJ]
    )
    index.write_text(json.dumps(content))
    rejected(hf_to_megatron, hf, tmp_path / "out", K_PROJ, "which does not hold it")


@pytest.mark.parametrize("weight_map", [{}, {"a": 5}, 7])
def test_an_index_without_files(hf, tmp_path, weight_map):
    index = shard(hf)
    index.write_text(json.dumps({"weight_map": weight_map}))
    rejected(hf_to_megatron, hf, tmp_path / "out", "index.json is damaged")


def test_a_single_file_beside_an_index(hf, tied, tmp_path):
    """transformers takes the single file; the index may be another model's."""
    single = (hf / "model.safetensors").read_bytes()
    shard(hf)
    (hf / "model.safetensors").write_bytes(single)
    rejected(hf_to_megatron, hf, tmp_path / "out", "model.safetensors beside model.safetensors.index.json")


def test_older_weights_are_named(hf, tmp_path):
    (hf / "model.safetensors").rename(hf / "pytorch_model.bin")
    rejected(hf_to_megatron, hf, tmp_path / "out", "no weights are there. Write pytorch_model.bin anew as safetensors")


def test_cut_off_bytes(hf, tmp_path):
    file = hf / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    rejected(hf_to_megatron, hf, tmp_path / "out", str(file), "is damaged or cut off")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda t: t.pop(K_PROJ), [K_PROJ, "1 tensors are missing"]),
        (lambda t: t.update({"model.layers.9.x": torch.ones(2)}), ["model.layers.9.x [2]", "1 have no rule"]),
        (lambda t: t.update({K_PROJ: t[K_PROJ].T.contiguous()}), [K_PROJ, "[256, 128], expected [128, 256]"]),
        (lambda t: t.update({K_PROJ: t[K_PROJ].to(torch.int8)}), [K_PROJ, "has dtype I8", "quantised"]),
        (lambda t: t.update({K_PROJ: t[K_PROJ].bfloat16()}), [K_PROJ, "is torch.bfloat16, but", "--dtype"]),
    ],
    ids=["missing key", "unknown key", "wrong shape", "wrong dtype", "mixed dtypes of one stored tensor"],
)
def test_tensors_that_are_not_the_models(hf, tmp_path, change, parts):
    rewrite(hf, change)
    rejected(hf_to_megatron, hf, tmp_path / "out", str(hf), *parts)


def test_mixed_dtypes_go_where_a_stored_tensor_has_one(hf, tmp_path):
    rewrite(hf, lambda t: t.update({"model.norm.weight": t["model.norm.weight"].bfloat16()}))
    hf_to_megatron(hf, tmp_path / "megatron")
    megatron_to_hf(tmp_path / "megatron", tmp_path / "back")
    back = read_all(tmp_path / "back")
    assert back["model.norm.weight"].dtype == torch.bfloat16
    assert_equal(back, load_file(hf / "model.safetensors"))
    rewrite(hf, lambda t: t.update({K_PROJ: t[K_PROJ].bfloat16()}))
    hf_to_megatron(hf, tmp_path / "cast", dtype=torch.float32)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_no_numbers(hf, tmp_path, value):
    rewrite(hf, lambda tensors: tensors[K_PROJ][3, 4:6].fill_(value))
    parts = (K_PROJ, "model.safetensors", "holds 2 values that are infinite or no numbers")
    rejected(hf_to_megatron, hf, tmp_path / "out", *parts, "--no-check-finite")
    hf_to_megatron(hf, tmp_path / "megatron", check_finite=False)  # bits are bits, when asked
    rejected(megatron_to_hf, tmp_path / "megatron", tmp_path / "out", K_PROJ, ".distcp", parts[2])
    megatron_to_hf(tmp_path / "megatron", tmp_path / "back", check_finite=False)

    def bits(tensors):
        return {name: tensor.view(torch.int32) for name, tensor in tensors.items()}

    assert_equal(bits(read_all(tmp_path / "back")), bits(load_file(hf / "model.safetensors")))


def test_values_that_do_not_fit_into_the_dtype(hf, tmp_path):
    rewrite(hf, lambda tensors: tensors[K_PROJ][0, 0].fill_(1e6))
    rejected(hf_to_megatron, hf, tmp_path / "out", K_PROJ, "too large for torch.float16", dtype=torch.float16)
    hf_to_megatron(hf, tmp_path / "out", dtype=torch.bfloat16)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"model_type": "qwen2_vl"}, "model_type is 'qwen2_vl', expected 'qwen2_5_vl'"),
        ({"num_hidden_layers": 2}, "have no rule"),
        ({"num_hidden_layers": 4}, "tensors are missing"),
    ],
)
def test_another_architecture(hf, tmp_path, change, part):
    config = json.loads((hf / "config.json").read_text())
    text = config.get("text_config", config)
    (config if "model_type" in change else text).update(change)
    (hf / "config.json").write_text(json.dumps(config))
    rejected(hf_to_megatron, hf, tmp_path / "out", part)


def test_a_second_head_of_a_tied_model(tied, tmp_path):
    """It may be there, but it may not be another one."""
    hf = shutil.copytree(tied, tmp_path / "hf")
    rewrite(hf, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    same = hf_to_megatron(hf, tmp_path / "same")
    assert same.weights_hash == hf_to_megatron(tied, tmp_path / "without").weights_hash
    rewrite(hf, lambda t: t["lm_head.weight"][-1, -1].add_(1))
    rejected(hf_to_megatron, hf, tmp_path / "out", "'lm_head.weight'", "says that they are tied")
    for other in (torch.zeros(3, 256), torch.zeros(384, 256, dtype=torch.bfloat16)):
        rewrite(hf, lambda t, other=other: t.update({"lm_head.weight": other}))
        rejected(hf_to_megatron, hf, tmp_path / "out", "'lm_head.weight'", "says that they are tied", dry_run=True)


def test_layouts_that_cannot_be(hf, tmp_path):
    for layout, part in (
        ({"tp": 8}, "exceeds the model's 4 key-value heads"),
        ({"tp": 3}, "not divisible by parallel.tp"),
        ({"pp": 2}, "3 layers are not divisible"),
        ({"vpp": 3}, "needs parallel.pp > 1"),
    ):
        rejected(hf_to_megatron, hf, tmp_path / "out", part, **layout)


# --- Megatron sources ----------------------------------------------------------------------------------------------


def test_missing_and_cut_off_files(megatron, tmp_path):
    file = megatron / "__1_0.distcp"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    rejected(megatron_to_hf, megatron, tmp_path / "out", str(file), "is cut off")
    file.unlink()
    rejected(megatron_to_hf, megatron, tmp_path / "out", str(file), "is missing")
    (megatron / "metadata.json").unlink()
    rejected(megatron_to_hf, megatron, tmp_path / "out", "is no Megatron checkpoint in the format torch_dist")


def test_a_changed_bit_is_noticed_by_the_hash_or_by_the_check_sum(megatron, tmp_path):
    file = megatron / "__0_0.distcp"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    rejected(megatron_to_hf, megatron, tmp_path / "out", "have the hash xxh3-128:", "the checkpoint is damaged")
    (megatron / "megatron_eureka.json").unlink()  # as a checkpoint of a run or of Megatron-Core
    rejected(megatron_to_hf, megatron, tmp_path / "out", str(file), "does not have its check sum")


def test_a_damaged_index(megatron, tmp_path):
    index = megatron / ".metadata"
    content = index.read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"this is text", pickle.dumps({"a": 1})):
        index.write_bytes(damaged)
        rejected(megatron_to_hf, megatron, tmp_path / "out", str(index), "is missing or damaged")
    index.unlink()
    rejected(megatron_to_hf, megatron, tmp_path / "out", str(index), "is missing or damaged")


DCP = "torch.distributed.checkpoint"


def NAMED(module, name):
    return f"c{module}\n{name}\n".encode()


def TEXT(text):
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


@pytest.mark.parametrize(
    "payload",
    [
        lambda code: NAMED("os", "mkdir") + TEXT(code) + b"\x85R",
        lambda code: NAMED("builtins", "exec") + TEXT(code) + b"\x85R",
        lambda code: NAMED(f"{DCP}.filesystem", "os") + b"0",
        lambda code: NAMED(f"{DCP}.metadata", "dataclass") + b"0",
        lambda code: NAMED(f"{DCP}.planner", "torch.load") + b"0",
        # what a module imports, and what its own look-up of attributes would then give out
        lambda code: (
            NAMED(f"{DCP}.filesystem", "torch") + NAMED(f"{DCP}.metadata", "__builtins__") + b"b0"
            + NAMED(f"{DCP}.filesystem", "_get_device_module") + TEXT("exec") + b"\x85R" + TEXT(code) + b"\x85R"
        ),
    ],
    ids=["os", "exec", "imported module", "imported function", "dotted name", "builtins merged into a module"],
)  # fmt: skip
def test_an_index_that_would_run_something(megatron, tmp_path, payload):
    target = tmp_path / "owned"
    code = f"open({str(target)!r}, 'w')"
    (megatron / ".metadata").write_bytes(b"\x80\x02" + payload(code) + b".")
    rejected(megatron_to_hf, megatron, tmp_path / "out", "which is no part of the format")
    with pytest.raises(ValueError, match="no part of the format"):
        TorchDistReader(megatron)  # what a run and verify read it with
    assert not target.exists()


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda m: m.storage_data.clear(), "it lists nothing"),
        (lambda m: m.storage_data.update({1: 2}), "entries of an unknown kind"),
        (lambda m: m.state_dict_metadata.update({NORM: 3}), "is of an unknown kind"),
        (lambda m: m.state_dict_metadata.pop(NORM), f"no description of {NORM}"),
        (lambda m: setattr(place_of(m, NORM), "relative_path", "../x.distcp"), "'../x.distcp', which is no file in"),
        (lambda m: setattr(place_of(m, NORM), "offset", "here"), "has no numbers"),
        (lambda m: m.state_dict_metadata[NORM].chunks.__setitem__(0, None), "chunks of an unknown kind"),
    ],
    ids=["nothing", "entry", "description", "no description", "path", "number", "chunk"],
)
def test_an_index_of_wrong_types(megatron, tmp_path, change, part):
    change_index(megatron, change)
    rejected(megatron_to_hf, megatron, tmp_path / "out", str(megatron / ".metadata"), part)


def place_of(metadata, key):
    return next(place for index, place in metadata.storage_data.items() if index.fqn == key)


def change_index(megatron, change):
    metadata = pickle.loads((megatron / ".metadata").read_bytes())
    change(metadata)
    (megatron / ".metadata").write_bytes(pickle.dumps(metadata))


def rename(metadata, old, new):
    metadata.state_dict_metadata[new] = metadata.state_dict_metadata.pop(old)
    metadata.storage_data = {
        type(index)(new, index.offset, index.index) if index.fqn == old else index: place
        for index, place in metadata.storage_data.items()
    }


def test_an_unknown_key_and_a_missing_one(megatron, tmp_path):
    change_index(megatron, lambda metadata: rename(metadata, NORM, "vision_model.other.weight"))
    parts = ("1 tensors are missing", NORM, "1 keys have no rule", "vision_model.other.weight")
    rejected(megatron_to_hf, megatron, tmp_path / "out", *parts)


def test_a_part_that_was_never_stored_or_stored_twice(megatron, tmp_path):
    def drop(metadata):
        gone = next(index for index in metadata.storage_data if "linear_fc1.weight" in index.fqn)
        del metadata.storage_data[gone]

    change_index(megatron, drop)
    rejected(megatron_to_hf, megatron, tmp_path / "out", "linear_fc1.weight", "parts are missing or stored twice")


def test_chunks_that_overlap(megatron, tmp_path):
    """As many elements as the tensor has, but some of them twice and others never."""

    def shift(metadata):
        tensor = metadata.state_dict_metadata["language_model.embedding.word_embeddings.weight"]
        chunk = next(chunk for chunk in tensor.chunks if chunk.offsets[0])
        index = next(i for i in metadata.storage_data if i.offset == chunk.offsets and "word_embeddings" in i.fqn)
        moved = torch.Size((chunk.offsets[0] - 1, 0))
        metadata.storage_data[type(index)(index.fqn, moved, index.index)] = metadata.storage_data.pop(index)
        tensor.chunks[index.index] = type(chunk)(moved, chunk.sizes)

    change_index(megatron, shift)
    rejected(megatron_to_hf, megatron, tmp_path / "out", "word_embeddings.weight", "overlap")


def test_files_of_another_checkpoint(untied, converted, megatron, tmp_path):
    """Of another dtype, whose archives have the same size and lie at the same places."""
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        hf_to_megatron(untied, tmp_path / name, dtype=dtype)
    one, other = (tmp_path / name / "__0_0.distcp" for name in ("bf16", "fp16"))
    assert one.stat().st_size == other.stat().st_size
    shutil.copy(other, one)
    rejected(megatron_to_hf, tmp_path / "bf16", tmp_path / "out", "__0_0.distcp", "belong to another checkpoint")


def test_a_place_that_belongs_to_another_tensor(megatron, tmp_path):
    """Small archives at the place of a large one must not be read beyond their end."""

    def point(metadata):
        small = place_of(metadata, "visual.merger.ln_q.weight")
        for index in metadata.storage_data:
            if "word_embeddings" in index.fqn:
                metadata.storage_data[index] = small

    change_index(megatron, point)
    (megatron / "megatron_eureka.json").unlink()
    rejected(
        megatron_to_hf, megatron, tmp_path / "out", "__0_0.distcp", "by the index it is [192, 256] of torch.float32"
    )


def test_a_part_that_is_stored_twice(megatron, tmp_path):
    def double(metadata):
        chunks = metadata.state_dict_metadata[NORM].chunks
        chunks.append(type(chunks[0])(torch.Size([1]), torch.Size([255])))
        index = next(index for index in metadata.storage_data if index.fqn == NORM)
        metadata.storage_data[type(index)(NORM, chunks[1].offsets, 1)] = metadata.storage_data[index]

    change_index(megatron, double)
    rejected(megatron_to_hf, megatron, tmp_path / "out", NORM, "parts are missing or stored twice")


@pytest.mark.parametrize("checksums", [True, False])
def test_archives_may_lack_check_sums(untied, converted, tmp_path, checksums):
    """As torch writes them with `compute_crc32` switched off; compressed ones it never writes."""
    from torch.distributed.checkpoint import FileSystemWriter, save

    megatron = tmp_path / "megatron"
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(checksums)
    try:
        save(read_checkpoint(converted), storage_writer=FileSystemWriter(megatron), no_dist=True)
    finally:
        torch.serialization.set_crc32_options(before)
    for name in ("metadata.json", "common.pt"):
        shutil.copy(converted / name, megatron / name)
    megatron_to_hf(megatron, tmp_path / "back", like=untied)
    assert_equal(read_all(tmp_path / "back"), load_file(untied / "model.safetensors"))


def test_another_format_of_megatron_core(megatron, tmp_path):
    for content, part in (({"sharded_backend": "zarr"}, "it is stored as 'zarr'"), (5, "metadata.json is missing")):
        (megatron / "metadata.json").write_text(json.dumps(content))
        rejected(megatron_to_hf, megatron, tmp_path / "out", part)


def test_a_folder_of_checkpoints_names_them(megatron, tmp_path):
    run = tmp_path / "run" / "checkpoints"
    run.mkdir(parents=True)
    megatron.rename(run / "step_3")
    for folder, name in ((run, "step_3"), (run.parent, "checkpoints/step_3")):
        rejected(megatron_to_hf, folder, tmp_path / "out", f"It holds the checkpoints {name}: give one of them")


def test_stored_dtypes_that_are_no_weights(megatron, tmp_path):
    def quantise(metadata):
        metadata.state_dict_metadata[NORM].properties.dtype = torch.int8

    change_index(megatron, quantise)
    rejected(megatron_to_hf, megatron, tmp_path / "out", NORM, "has dtype torch.int8")


def test_the_small_files_of_a_checkpoint_come_from_a_checkpoint_too(converted, megatron, tmp_path):
    megatron_to_hf(megatron, tmp_path / "out", like=converted)
    assert (tmp_path / "out" / "config.json").read_bytes() == (converted / "hf" / "config.json").read_bytes()


def test_a_folder_of_equal_shapes_but_another_config(megatron, untied, tmp_path):
    other = shutil.copytree(untied, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["text_config"]["rms_norm_eps"] = 1e-5
    (other / "config.json").write_text(json.dumps(config))
    rejected(megatron_to_hf, megatron, tmp_path / "out", "differ in rms_norm_eps (1e-05 and 1e-06)", like=other)
    with pytest.raises(ValueError, match="describe different models"):
        verify(other, megatron)


def test_configs_that_are_none(hf, tmp_path):
    good = json.loads((hf / "config.json").read_text())
    for config, part in (
        ([], "model_type is None"),
        ({}, "model_type is None"),
        ({key: value for key, value in good.items() if key != "vision_config"}, "'vision_config' is missing"),
        (good | {"vision_config": 3}, "an entry is no size of a model"),
        (good | {"text_config": good["text_config"] | {"hidden_size": "wide"}}, "an entry is no size of a model"),
        (good | {"text_config": good["text_config"] | {"num_attention_heads": 0}}, "an entry is no size of a model"),
        (good | {"text_config": good["text_config"] | {"num_hidden_layers": 3.0}}, "num_layers is 3.0"),
    ):
        (hf / "config.json").write_text(json.dumps(config))
        rejected(hf_to_megatron, hf, tmp_path / "out", "config.json", part)
    (hf / "config.json").write_text("{")
    rejected(hf_to_megatron, hf, tmp_path / "out", "config.json is not valid JSON")
    (hf / "config.json").unlink()
    rejected(hf_to_megatron, hf, tmp_path / "out", str(hf), "config.json is missing")


def test_a_checkpoint_of_other_sizes(megatron, tmp_path):
    wider = make_model(tmp_path / "wider", hidden_size=256, num_heads=8, num_kv_heads=4, ffn_size=512)
    rejected(megatron_to_hf, megatron, tmp_path / "out", "differ in ffn_size (512 and 256)", like=wider)
    shutil.rmtree(megatron / "hf")
    rejected(megatron_to_hf, megatron, tmp_path / "out", "[3, 512, 256], expected [3, 1024, 256]", like=wider)


def test_a_checkpoint_that_does_not_say_what_it_is(megatron, untied, tmp_path):
    shutil.rmtree(megatron / "hf")
    rejected(megatron_to_hf, megatron, tmp_path / "out", "does not say what model it is")
    megatron_to_hf(megatron, tmp_path / "out", like=untied)
    assert verify(tmp_path / "out", megatron).equal


def test_a_checkpoint_of_another_table(megatron, tmp_path):
    file = megatron / "megatron_eureka.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"table_version": 99}))
    rejected(megatron_to_hf, megatron, tmp_path / "out", "version 99 of the table of weights")
    file.write_text("{")
    rejected(megatron_to_hf, megatron, tmp_path / "out", "megatron_eureka.json is damaged")

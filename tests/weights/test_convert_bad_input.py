"""What conversions refuse, how they say it, and what they leave behind: nothing, whenever they end."""

import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from examples.digits.model import make_model
from megatron_eureka.weights import hf_to_megatron, megatron_to_hf, new_folder, save_hf, verify
from tests.weights.reference import assert_equal
from tests.weights.test_save import read_all

ROOT = Path(__file__).resolve().parents[2]
K_PROJ = "model.layers.1.self_attn.k_proj.weight"


def snapshot(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def hf(untied, tmp_path):
    return shutil.copytree(untied, tmp_path / "hf")


@pytest.fixture(scope="session")
def converted(untied, tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / "megatron"
    hf_to_megatron(untied, folder, tp=2)
    return folder


@pytest.fixture
def megatron(converted, tmp_path):
    return shutil.copytree(converted, tmp_path / "megatron")


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def refused(convert, source, target, *parts, **options):
    """One message with all parts; the source is untouched, and beside it there is nothing new."""
    before, beside = snapshot(source), set(source.parent.iterdir())
    with pytest.raises(ValueError) as error:
        convert(source, target, **options)
    for part in parts:
        assert part in str(error.value)
    assert snapshot(source) == before
    assert set(source.parent.iterdir()) == beside


# --- Hugging Face sources ------------------------------------------------------------------------------------------


def shard(folder):
    """Rewrite a folder as several files with an index."""
    tensors = load_file(folder / "model.safetensors")
    save_hf(folder.with_name("sharded"), tensors.items(), folder, max_shard_bytes=1_000_000)
    shutil.rmtree(folder)
    folder.with_name("sharded").rename(folder)
    return folder / "model.safetensors.index.json"


def test_a_missing_shard_is_named(hf, tmp_path):
    shard(hf)
    next(hf.glob("model-00002-*")).unlink()
    refused(hf_to_megatron, hf, tmp_path / "out", "model-00002-of", "is missing, though model.safetensors.index.json")


def test_an_index_that_names_what_is_not_there(hf, tmp_path):
    index = shard(hf)
    content = json.loads(index.read_text())
    content["weight_map"]["model.layers.0.None"] = content["weight_map"][K_PROJ]
    index.write_text(json.dumps(content))
    refused(hf_to_megatron, hf, tmp_path / "out", "'model.layers.0.None'", "which does not hold it")
    index.write_text("{")
    refused(hf_to_megatron, hf, tmp_path / "out", "index.json is damaged")


def test_cut_off_bytes(hf, tmp_path):
    file = hf / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    refused(hf_to_megatron, hf, tmp_path / "out", str(file), "is damaged or cut off")


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
    refused(hf_to_megatron, hf, tmp_path / "out", str(hf), *parts)


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
    refused(hf_to_megatron, hf, tmp_path / "out", *parts, check_finite=True)
    hf_to_megatron(hf, tmp_path / "megatron")  # bits are bits, unless asked
    refused(megatron_to_hf, tmp_path / "megatron", tmp_path / "out", K_PROJ, ".distcp", parts[2], check_finite=True)


def test_values_that_do_not_fit_into_the_dtype(hf, tmp_path):
    rewrite(hf, lambda tensors: tensors[K_PROJ][0, 0].fill_(1e6))
    refused(hf_to_megatron, hf, tmp_path / "out", K_PROJ, "too large for torch.float16", dtype=torch.float16)
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
    refused(hf_to_megatron, hf, tmp_path / "out", part)


def test_a_second_head_of_a_tied_model(tied, tmp_path):
    """It may be there, but it may not be another one."""
    hf = shutil.copytree(tied, tmp_path / "hf")
    rewrite(hf, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    same = hf_to_megatron(hf, tmp_path / "same")
    assert same.weights_hash == hf_to_megatron(tied, tmp_path / "without").weights_hash
    rewrite(hf, lambda t: t["lm_head.weight"][-1, -1].add_(1))
    refused(hf_to_megatron, hf, tmp_path / "out", "'lm_head.weight'", "says that they are tied")


def test_layouts_that_cannot_be(hf, tmp_path):
    for layout, part in (
        ({"tp": 8}, "exceeds the model's 4 key-value heads"),
        ({"tp": 3}, "not divisible by parallel.tp"),
        ({"pp": 2}, "3 layers are not divisible"),
        ({"vpp": 3}, "needs parallel.pp > 1"),
    ):
        refused(hf_to_megatron, hf, tmp_path / "out", part, **layout)


# --- Megatron sources ----------------------------------------------------------------------------------------------


def test_missing_and_cut_off_files(megatron, tmp_path):
    file = megatron / "__1_0.distcp"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    refused(megatron_to_hf, megatron, tmp_path / "out", str(file), "is cut off")
    file.unlink()
    refused(megatron_to_hf, megatron, tmp_path / "out", str(file), "is missing")
    (megatron / "metadata.json").unlink()
    refused(megatron_to_hf, megatron, tmp_path / "out", "is no Megatron checkpoint")


def test_a_changed_bit_is_noticed_by_the_hash_or_by_the_check_sum(megatron, tmp_path):
    file = megatron / "__0_0.distcp"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    refused(megatron_to_hf, megatron, tmp_path / "out", "have the hash xxh3-128:", "the checkpoint is damaged")
    (megatron / "megatron_eureka.json").unlink()  # as a checkpoint of a run or of Megatron-Core
    refused(megatron_to_hf, megatron, tmp_path / "out", str(file), "does not have its check sum")


def test_a_damaged_index(megatron, tmp_path):
    index = megatron / ".metadata"
    content = index.read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"this is text", pickle.dumps({"a": 1})):
        index.write_bytes(damaged)
        refused(megatron_to_hf, megatron, tmp_path / "out", str(index), "is missing or damaged")
    index.unlink()
    refused(megatron_to_hf, megatron, tmp_path / "out", str(index), "is missing or damaged")


class Hostile:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_an_index_that_would_run_a_function(megatron, tmp_path):
    (megatron / ".metadata").write_bytes(pickle.dumps(Hostile(str(tmp_path / "owned"))))
    refused(megatron_to_hf, megatron, tmp_path / "out", "mkdir, which is no part of the format")
    assert not (tmp_path / "owned").exists()


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


NORM = "language_model.decoder.final_layernorm.weight"


def test_an_unknown_key_and_a_missing_one(megatron, tmp_path):
    change_index(megatron, lambda metadata: rename(metadata, NORM, "vision_model.other.weight"))
    parts = ("1 tensors are missing", NORM, "1 keys have no rule", "vision_model.other.weight")
    refused(megatron_to_hf, megatron, tmp_path / "out", *parts)


def test_a_part_that_was_never_stored_or_stored_twice(megatron, tmp_path):
    def drop(metadata):
        gone = next(index for index in metadata.storage_data if "linear_fc1.weight" in index.fqn)
        del metadata.storage_data[gone]

    change_index(megatron, drop)
    refused(megatron_to_hf, megatron, tmp_path / "out", "linear_fc1.weight", "parts are missing or stored twice")


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
    refused(megatron_to_hf, megatron, tmp_path / "out", "word_embeddings.weight", "overlap")


def test_files_of_another_checkpoint(untied, converted, megatron, tmp_path):
    """Of another dtype, whose archives have the same size and lie at the same places."""
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        hf_to_megatron(untied, tmp_path / name, dtype=dtype)
    one, other = (tmp_path / name / "__0_0.distcp" for name in ("bf16", "fp16"))
    assert one.stat().st_size == other.stat().st_size
    shutil.copy(other, one)
    refused(megatron_to_hf, tmp_path / "bf16", tmp_path / "out", "__0_0.distcp", "belong to another checkpoint")


def test_a_folder_of_equal_shapes_but_another_config(megatron, untied, tmp_path):
    other = shutil.copytree(untied, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["text_config"]["rms_norm_eps"] = 1e-5
    (other / "config.json").write_text(json.dumps(config))
    refused(megatron_to_hf, megatron, tmp_path / "out", "differ in ['rms_norm_eps']", like=other)
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
    ):
        (hf / "config.json").write_text(json.dumps(config))
        refused(hf_to_megatron, hf, tmp_path / "out", "config.json", part)
    (hf / "config.json").write_text("{")
    refused(hf_to_megatron, hf, tmp_path / "out", "config.json is not valid JSON")
    (hf / "config.json").unlink()
    refused(hf_to_megatron, hf, tmp_path / "out", str(hf), "config.json is missing")


def test_a_checkpoint_of_other_sizes(megatron, tmp_path):
    wider = make_model(tmp_path / "wider", hidden_size=256, num_heads=8, num_kv_heads=4, ffn_size=512)
    refused(megatron_to_hf, megatron, tmp_path / "out", "differ in ['ffn_size']", like=wider)
    shutil.rmtree(megatron / "hf")
    refused(megatron_to_hf, megatron, tmp_path / "out", "[3, 512, 256], expected [3, 1024, 256]", like=wider)


def test_a_checkpoint_that_does_not_say_what_it_is(megatron, untied, tmp_path):
    shutil.rmtree(megatron / "hf")
    refused(megatron_to_hf, megatron, tmp_path / "out", "does not say what model it is")
    megatron_to_hf(megatron, tmp_path / "out", like=untied)
    assert verify(tmp_path / "out", megatron).equal


def test_a_checkpoint_of_another_table(megatron, tmp_path):
    file = megatron / "megatron_eureka.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"table_version": 99}))
    refused(megatron_to_hf, megatron, tmp_path / "out", "version 99 of the table of weights")
    file.write_text("{")
    refused(megatron_to_hf, megatron, tmp_path / "out", "megatron_eureka.json is damaged")


# --- targets -------------------------------------------------------------------------------------------------------


def test_a_target_is_replaced_only_when_asked_and_only_a_model(untied, tied, converted, tmp_path):
    target = tmp_path / "target"
    hf_to_megatron(untied, target)
    before = snapshot(target)
    for convert, source in ((hf_to_megatron, tied), (megatron_to_hf, converted)):
        with pytest.raises(ValueError, match="exists already"):
            convert(source, target)
        with pytest.raises(ValueError, match="exists already"):
            convert(source, target, dry_run=True)
    assert snapshot(target) == before
    hf_to_megatron(tied, target, overwrite=True)
    assert verify(tied, target).equal
    megatron_to_hf(converted, target, overwrite=True)
    assert verify(target, converted).equal and not (target / ".metadata").exists()
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="is no model folder, so it is not overwritten"):
        hf_to_megatron(untied, tmp_path / "letters", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["letters", "target"]


def test_source_and_target_lie_apart(hf, megatron):
    for convert, source in ((hf_to_megatron, hf), (megatron_to_hf, megatron)):
        for target in (source, source / "inside", source.parent):
            refused(convert, source, target, "lie inside each other", overwrite=True)


def test_a_disk_that_is_too_small(hf, megatron, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(new_folder.shutil, "disk_usage", lambda folder: usage._replace(free=1_000_000))
    for convert, source in ((hf_to_megatron, hf), (megatron_to_hf, megatron)):
        refused(convert, source, tmp_path / "out", "has 0.00 GB free, 0.01 GB are needed")
        refused(convert, source, tmp_path / "out", "0.01 GB are needed", dry_run=True)


def test_a_dry_run_writes_nothing(hf, megatron, tmp_path):
    before = set(tmp_path.rglob("*"))
    there = hf_to_megatron(hf, tmp_path / "deep" / "out", tp=2, dry_run=True)
    back = megatron_to_hf(megatron, tmp_path / "deep" / "out", dry_run=True)
    assert set(tmp_path.rglob("*")) == before
    sizes = {file.name: file.stat().st_size for file in megatron.glob("*.distcp")}
    assert there.file_bytes == sizes and "would write" in str(there)
    megatron_to_hf(megatron, tmp_path / "back")
    assert back.file_bytes == {"model.safetensors": (tmp_path / "back" / "model.safetensors").stat().st_size}


# --- ends in the middle --------------------------------------------------------------------------------------------

SLOW = """
import sys, time
from megatron_eureka.weights import hf_to_megatron, hf_writer, megatron_to_hf, to_megatron

def slowly(*arguments, write):
    time.sleep(0.01)
    write(*arguments)

for module in (to_megatron, hf_writer):
    module.write_at = lambda *arguments, write=module.write_at: slowly(*arguments, write=write)
print("ready", flush=True)
{"there": hf_to_megatron, "back": megatron_to_hf}[sys.argv[1]](sys.argv[2], sys.argv[3], workers=2)
"""


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["there", "back"])
def test_killed_at_any_moment_it_leaves_nothing_that_looks_whole(hf, megatron, tmp_path, direction):
    convert, source = {"there": (hf_to_megatron, hf), "back": (megatron_to_hf, megatron)}[direction]
    before, target = snapshot(source), tmp_path / "out"
    for delay_s in (0.0, 0.1, 0.3):
        command = [sys.executable, "-c", SLOW, direction, str(source), str(target)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        begin = time.time()
        while not any(file.stat().st_mtime > begin for file in (tmp_path / ".out.partial").glob("*")):
            time.sleep(0.001)  # what the one before left does not count
        if delay_s:
            with pytest.raises(ValueError, match="Another process is writing"):
                convert(source, target)
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=30) == -signal.SIGKILL
        assert not target.exists()
        assert snapshot(source) == before
    assert (tmp_path / ".out.partial").exists()  # hidden, and cleared away by the next one
    convert(source, target)
    assert not list(tmp_path.glob(".out*"))
    assert verify(*((source, target) if direction == "there" else (target, source))).equal


def tool(name, *arguments, **options):
    command = [sys.executable, str(ROOT / "tools" / "convert" / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, **options)


@pytest.mark.slow
def test_exit_codes_and_messages_of_the_commands(hf, tmp_path):
    assert tool("hf_to_megatron", "--hf", hf, "--megatron", tmp_path / "megatron").returncode == 0
    again = tool("hf_to_megatron", "--hf", hf, "--megatron", tmp_path / "megatron")
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.startswith("error: ") and again.stderr.count("\n") == 1
    assert tool("verify", "--hf", hf, "--megatron", tmp_path / "megatron").returncode == 0
    rewrite(hf, lambda tensors: tensors[K_PROJ][0, 0].add_(1))
    different = tool("verify", "--hf", hf, "--megatron", tmp_path / "megatron")
    assert different.returncode == 1
    assert f"{K_PROJ}: 1 of" in different.stdout
    assert tool("megatron_to_hf", "--megatron", hf, "--hf", tmp_path / "back").returncode == 2


@pytest.mark.slow
def test_a_write_that_fails_in_the_middle(hf, tmp_path):
    """A limit on the size of files stands for a full disk: the system call fails, whatever was free before."""
    limit = lambda: (
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
    )
    failed = tool("hf_to_megatron", "--hf", hf, "--megatron", tmp_path / "megatron", preexec_fn=limit)
    assert failed.returncode == 1
    assert "could not be written: [Errno 27]" in failed.stderr and failed.stderr.count("\n") == 1
    assert not list(tmp_path.glob("*megatron*"))


SLOW_TOOL = """
import runpy, sys, time
from megatron_eureka.weights import to_megatron

def slowly(*arguments, write=to_megatron.write_at):
    time.sleep(0.05)
    write(*arguments)

to_megatron.write_at = slowly
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_time_limit_and_ctrl_c_clear_away(hf, tmp_path, number):
    """SIGTERM is what a job gets at its end."""
    script = str(ROOT / "tools" / "convert" / "hf_to_megatron.py")
    command = [sys.executable, "-c", SLOW_TOOL, script, "--hf", str(hf), "--megatron", str(tmp_path / "out")]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / ".out.partial").glob("*.distcp")):
        time.sleep(0.001)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]

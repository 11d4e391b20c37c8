"""The conversion benchmark: its random checkpoints, how it measures a process, and its arithmetic."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from megatron_eureka.checkpoints import Conversion, check_hf_keys
from megatron_eureka.families import read_sizes
from megatron_eureka.families.source import ModelSource
from megatron_eureka.weights import hf_tensors
from tools.bench import convert
from tools.bench import convert_figures as figures
from tools.bench.convert import Tools
from tools.bench.convert_figures import CP, MBRIDGE, ROUND_TRIP, STARTUP, TO_HF, TO_MEGATRON, WORK, Measurement
from tools.bench.convert_process import Usage, run_child
from tools.bench.random_checkpoint import SIZES, first_difference, hf_config, make_checkpoint, num_bytes

ROOT = Path(__file__).resolve().parents[2]
TINY = SIZES["tiny"]
MIB = 2**20


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("random") / "hf-tiny", TINY)


def python(program: str) -> tuple[str, ...]:
    """A bare interpreter that runs a program: about 10 MiB."""
    return (sys.executable, "-I", "-S", "-c", program)


# --- random checkpoints


def test_a_random_checkpoint_is_whole_finite_and_nowhere_alike(tiny):
    check_hf_keys(tiny, TINY)
    assert ModelSource.open(tiny).info == TINY
    shards = [load_file(file) for file in sorted(tiny.glob("*.safetensors"))]
    assert len(shards) == 2
    tensors = shards[0] | shards[1]
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert sum(tensor.numel() for tensor in tensors.values()) * 2 == num_bytes(TINY)
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    starts = {tuple(tensor.flatten().view(torch.int16)[:8].tolist()) for tensor in tensors.values()}
    assert len(starts) == len(hf_tensors(TINY))
    rows = tensors["model.embed_tokens.weight"].view(torch.int16)
    assert len({tuple(row.tolist()) for row in rows}) == TINY.vocab_size


@pytest.mark.parametrize("size", SIZES)
def test_its_config_is_read_back_by_us_and_by_transformers(size):
    from transformers import Qwen2_5_VLConfig

    info = SIZES[size]
    assert read_sizes(hf_config(info)) == info
    theirs = Qwen2_5_VLConfig(**hf_config(info))
    assert theirs.text_config.num_hidden_layers == info.num_layers
    assert theirs.vision_config.out_hidden_size == info.hidden_size
    assert theirs.tie_word_embeddings == info.tied


def test_sizes_are_what_they_are_called():
    assert num_bytes(SIZES["3b"]) == 2 * 3_754_622_976  # as published, see tests/weights/test_table.py
    assert 0.9e9 < num_bytes(SIZES["0.5b"]) < 1.1e9
    assert num_bytes(TINY) < 10e6


def test_a_whole_checkpoint_is_kept_and_another_one_refused(tiny, tmp_path):
    before = {file.name: file.stat().st_mtime_ns for file in tiny.iterdir()}
    make_checkpoint(tiny, TINY)
    assert {file.name: file.stat().st_mtime_ns for file in tiny.iterdir()} == before
    with pytest.raises(ValueError, match="other sizes"):
        make_checkpoint(tiny, replace(TINY, num_layers=3))
    broken = shutil.copytree(tiny, tmp_path / "broken")
    next(broken.glob("*.safetensors")).unlink()
    with pytest.raises(ValueError, match="is missing"):
        make_checkpoint(broken, TINY)


def test_the_comparison_sees_one_bit_and_a_missing_tensor(tiny, tmp_path):
    again = make_checkpoint(tmp_path / "again", TINY)
    assert first_difference(tiny, again) is None
    assert "other bytes" in first_difference(tiny, make_checkpoint(tmp_path / "other", TINY, seed=1))
    last = sorted(again.glob("*.safetensors"))[-1]
    data = bytearray(last.read_bytes())
    data[-1] ^= 1
    last.write_bytes(data)
    assert "model.norm.weight has other bytes" in first_difference(tiny, again)  # the last one of a tied model
    last.write_bytes(data.replace(b'"BF16"', b'"F16" ', 1))
    assert "('F16'," in first_difference(tiny, again)
    last.unlink()
    assert "only in one of the two folders" in first_difference(tiny, again)


# --- one process


def test_memory_of_a_child_is_its_own():
    held = bytearray(300 * MIB)
    held[::4096] = b"1" * len(held[::4096])  # a child must not start from this process's peak
    baseline = run_child(python("pass"), 60).peak_rss_mib
    assert baseline < 50
    used = run_child(python("x = bytearray(210 << 20); x[::4096] = b'1' * len(x[::4096])"), 60).peak_rss_mib
    assert 205 <= used - baseline < 230  # the baseline is the launcher's own size, a little more than the child's


def test_memory_of_several_processes_is_added_up():
    program = """
import os, time
for _ in range(2):
    if os.fork() == 0:
        x = bytearray(100 << 20); x[::4096] = b"1" * len(x[::4096]); time.sleep(0.6); os._exit(0)
os.wait(); os.wait()
"""
    # Sampled every 50 ms while both hold their 100 MiB; the kernel's own figure is that of one.
    assert 200 <= run_child(python(program), 60).peak_rss_mib < 250


def test_cpu_seconds_are_those_of_the_child_and_its_children():
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    burnt = run_child(python(burn), 60)
    assert 0.3 <= burnt.cpu_s < 0.6  # the rest is the interpreter's start
    assert burnt.seconds >= burnt.cpu_s * 0.9
    inner = run_child(python(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"), 60)
    assert inner.cpu_s >= 0.3
    idle = run_child(python("import time; time.sleep(0.4); print('slept')"), 60)
    assert idle.seconds >= 0.4
    assert idle.cpu_s < 0.3
    assert idle.output == "slept\n"


def test_a_child_that_fails_says_why():
    with pytest.raises(RuntimeError, match="(?s)exit code 3.*no such model"):
        run_child(python("import sys; sys.stderr.write('no such model'); sys.exit(3)"), 60)
    with pytest.raises(RuntimeError, match="(?s)no-such-program could not be run.*FileNotFoundError"):
        run_child(("no-such-program",), 60)


def test_a_child_that_hangs_is_killed_with_what_it_started(tmp_path):
    file = tmp_path / "pid"
    program = (
        f"import os, time; pid = os.fork() or os.getpid()\nopen({str(file)!r}, 'w').write(str(pid)); time.sleep(60)"
    )
    with pytest.raises(RuntimeError, match="longer than 1 s"):
        run_child(python(program), 1)
    pid, deadline = int(file.read_text()), time.monotonic() + 5
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():  # empty once dead
        assert time.monotonic() < deadline, f"{pid} is still there"
        time.sleep(0.05)


# --- figures


def run(direction, name, seconds, cache="warm", repeat=0, mib=250.0):
    return Measurement(direction, name, cache, repeat, seconds, cpu_s=seconds / 2, peak_rss_mib=mib)


def made_up() -> list[Measurement]:
    """Three repeats whose ratios to cp are 3, 2, 1 one way and 1.5 the other; mbridge takes 3, 4 and 6 times ours.

    Half of our seconds and a quarter of mbridge's are work.
    """
    found = [run("", STARTUP, 1.0, repeat=repeat, mib=mib) for repeat, mib in enumerate((200.0, 190.0, 210.0))]
    for repeat, (cp, there) in enumerate(((1.0, 3.0), (1.0, 2.0), (4.0, 4.0))):
        back = 1.5 * cp
        mib = 480.0 + 10 * repeat
        theirs = (there + back) * (3, 4, 6)[repeat]
        found += [
            run(TO_MEGATRON, CP, cp, repeat=repeat, mib=10.0),
            run(TO_MEGATRON, "ours, 1 worker", there, repeat=repeat, mib=mib),
            run(TO_HF, CP, cp, repeat=repeat, mib=10.0),
            run(TO_HF, "ours, 1 worker", back, repeat=repeat, mib=mib + 1),
            run(ROUND_TRIP, MBRIDGE, theirs, repeat=repeat, mib=4000.0),
            run(TO_MEGATRON, f"ours, 1 worker, {WORK}", there / 2, repeat=repeat),
            run(TO_HF, f"ours, 1 worker, {WORK}", back / 2, repeat=repeat),
            run(ROUND_TRIP, f"{MBRIDGE}, {WORK}", theirs / 4, repeat=repeat),
        ]
    return found


def test_ratios_are_taken_within_a_repeat_and_memory_is_the_worst_one():
    found = made_up()
    assert figures.ratio_to_cp(found, "warm", TO_MEGATRON, "ours, 1 worker") == 2.0  # of the medians it would be 3
    assert figures.ratio_to_cp(found, "warm", TO_HF, "ours, 1 worker") == 1.5
    assert figures.ratio_to_cp(found, "warm", ROUND_TRIP, MBRIDGE) is None
    assert figures.mib_above(found, "warm", TO_MEGATRON, "ours, 1 worker") == 300.0
    assert figures.speedup_over_mbridge(found, "warm", "ours, 1 worker") == 4.0
    assert figures.speedup_over_mbridge(found, "warm", "ours, 1 worker", WORK) == 2.0
    without = [m for m in found if m.direction != ROUND_TRIP]
    assert figures.speedup_over_mbridge(without, "warm", "ours, 1 worker") is None


def test_rows_hold_median_least_and_largest():
    rows = {(row.direction, row.name): row for row in figures.rows(made_up())}
    assert list(rows)[0] == ("", STARTUP)
    row = rows[TO_MEGATRON, "ours, 1 worker"]
    assert (row.median_s, row.min_s, row.ratio_to_cp, row.cpu_s) == (3.0, 2.0, 2.0, 1.5)
    assert (row.peak_rss_mib, row.above_mib) == (500.0, 300.0)
    assert rows[TO_MEGATRON, CP].ratio_to_cp == 1.0


def test_targets_are_met_up_to_their_limit_and_missed_beyond_it():
    verdicts = {target.name: target for target in figures.targets(made_up(), ["ours, 1 worker"])}
    where = "Megatron, ours, 1 worker, warm"
    assert [(t.limit, t.value, t.met) for t in verdicts.values()] == [
        (2.5, 2.0, True),
        (300.0, 300.0, True),
        (2.0, 1.5, True),
        (300.0, 301.0, False),
        (2.0, 2.0, True),
        (2.0, 4.0, True),
    ]
    assert verdicts[f"seconds by cp: HF -> {where}"].bound == "at most"
    assert verdicts["times as fast as mbridge, work alone: ours, 1 worker, warm"].bound == "at least"
    slow = [replace(m, seconds=m.seconds * (1 + m.name.startswith("ours"))) for m in made_up()]
    assert [t.met for t in figures.targets(slow, ["ours, 1 worker"])] == [
        False,
        True,
        False,
        False,
        False,
        True,
    ]
    slower = [replace(m, seconds=m.seconds * (1 + 2 * m.name.startswith("ours"))) for m in made_up()]
    assert not figures.targets(slower, ["ours, 1 worker"])[-1].met


def test_cold_and_warm_are_not_mixed():
    cold = [replace(m, cache="cold", seconds=10 * m.seconds if m.name == CP else m.seconds) for m in made_up()]
    found = [*cold, *made_up()]
    assert figures.ratio_to_cp(found, "warm", TO_MEGATRON, "ours, 1 worker") == 2.0
    assert figures.ratio_to_cp(found, "cold", TO_MEGATRON, "ours, 1 worker") == 0.2
    assert [row.cache for row in figures.rows(found)] == ["warm"] * 9 + ["cold"] * 9
    assert len(figures.targets(found, ["ours, 1 worker"])) == 12


def test_the_work_of_a_program_is_told_apart_from_its_start():
    line = '{"load_s": 2.0, "save_s": 3.0, "cpu_s": 4.5}'
    usage = Usage(9.0, 8.0, 2500.0, output=f"a warning\n{line}\nanother at the end\n")
    parts = convert.parts(convert.Program(ROUND_TRIP, MBRIDGE, ()), "warm", 1, usage)
    assert [(m.direction, m.name, m.seconds, m.cpu_s, m.peak_rss_mib, m.repeat) for m in parts] == [
        (TO_MEGATRON, "mbridge, load", 2.0, None, None, 1),
        (TO_HF, "mbridge, save", 3.0, None, None, 1),
        (ROUND_TRIP, "mbridge, work alone", 5.0, 4.5, None, 1),
        (ROUND_TRIP, "mbridge", 9.0, 8.0, 2500.0, 1),
    ]
    done = str(Conversion(Path("out"), 3, {"a": 4_000_000_000}, 2.5, "xxh3-128:0"))
    parts = convert.parts(convert.Program(TO_HF, "ours, 1 worker", ()), "warm", 1, replace(usage, output=done))
    assert [(m.name, m.seconds) for m in parts] == [("ours, 1 worker", 9.0), ("ours, 1 worker, work alone", 2.5)]
    assert len(convert.parts(convert.Program(TO_HF, CP, ()), "warm", 1, replace(usage, output=""))) == 1


# --- everything

STAND_IN = """
import shutil, sys
options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
source, target = (options["--hf"], options["--megatron"])[:: 1 if sys.argv[1] == "to_megatron" else -1]
shutil.copytree(source, target)
if sys.argv[1] == "damaging":
    with open(target + "/model-00001-of-00002.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"?")
"""


def stand_ins(folder: Path, to_hf: str = "to_hf") -> Tools:
    """Tools that copy folders; verify finds no fault."""
    script = folder / "stand_in.py"
    script.write_text(STAND_IN, "utf-8")

    def tool(*arguments):
        return (sys.executable, "-I", "-S", *arguments)

    return Tools(tool(str(script), "to_megatron"), tool(str(script), to_hf), tool("-c", "pass"))


@pytest.mark.slow
def test_programs_take_turns_and_the_record_holds_every_run(tmp_path, capsys):
    arguments = ["--size", "tiny", "--repeats", "2", "--workers", "1", "2", "--settle-s", "0", "--cache", "warm"]
    arguments += ["--folder", str(tmp_path / "disk"), "--json", str(tmp_path / "new" / "record.json")]
    convert.main(arguments, stand_ins(tmp_path))
    record = json.loads((tmp_path / "new" / "record.json").read_text("utf-8"))
    ours = [CP, "ours, 1 worker", "ours, 2 workers"]
    assert [(m["repeat"], m["name"]) for m in record["measurements"]] == [
        (repeat, name) for repeat in range(2) for name in (STARTUP, *ours, *ours)
    ]
    assert len(record["same_weights_after"]) == 4
    assert record["options"]["workers"] == [1, 2]
    assert record["cache"].keys() == {"warm"}
    assert record["machine"]["cores"] == os.cpu_count()
    assert record["checkpoint"]["hf_bytes"] == num_bytes(TINY)
    assert len(record["targets"]) == 8
    assert str(tmp_path) not in json.dumps(record)
    assert os.listdir(tmp_path / "disk") == ["hf-tiny"]
    assert "HF -> Megatron" in capsys.readouterr().out


@pytest.mark.slow
def test_weights_that_changed_end_the_run_and_nothing_but_the_source_stays(tmp_path):
    arguments = ["--size", "tiny", "--repeats", "1", "--settle-s", "0", "--folder", str(tmp_path / "disk")]
    with pytest.raises(SystemExit, match="the weights changed: .* has other bytes"):
        convert.main(arguments, stand_ins(tmp_path, to_hf="damaging"))
    assert os.listdir(tmp_path / "disk") == ["hf-tiny"]


def test_too_little_space_is_said_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    free = int(3 * num_bytes(TINY))  # 3.3 times are needed
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
    with pytest.raises(SystemExit, match="0.0 GB left"):
        convert.main(["--size", "tiny", "--folder", str(tmp_path / "disk")])
    assert os.listdir(tmp_path / "disk") == []


@pytest.mark.slow
def test_the_tools_keep_every_byte_and_little_memory(tmp_path):
    out = tmp_path / "record.json"
    options = ["--size", "tiny", "--repeats", "1", "--settle-s", "0", "--workers", "2", "--fsync"]
    options += ["--tp", "2", "--pp", "2", "--folder", str(tmp_path / "disk"), "--json", str(out)]
    command = [sys.executable, "tools/bench/convert.py", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(out.read_text("utf-8"))
    names = ["ours, 2 workers", "ours, 2 workers, fsync"]
    assert record["same_weights_after"] == [f"{way}, {name}" for way in (TO_MEGATRON, TO_HF) for name in names]
    # At this size all seconds are imports, so only the promise about memory means something.
    memory = [target for target in record["targets"] if target["name"].startswith("MiB above")]
    assert len(memory) == 4  # two ways, warm and cold
    assert all(target["met"] for target in memory), memory
    assert os.listdir(tmp_path / "disk") == ["hf-tiny"]


@pytest.mark.slow
def test_memory_does_not_follow_the_model(tmp_path):
    """A gigabyte of weights, one tensor of 103 MB: conversions stay below, also when they cut, cast and check."""
    make_checkpoint(tmp_path / "hf", SIZES["0.5b"])
    hf, megatron, back = (str(tmp_path / name) for name in ("hf", "megatron", "back"))
    tools = Tools()
    baseline = run_child((sys.executable, "-c", "import torch"), 60).peak_rss_mib
    commands = [
        (*tools.hf_to_megatron, "--hf", hf, "--megatron", megatron, "--tp", "2", "--check-finite", "--workers", "2"),
        (*tools.megatron_to_hf, "--megatron", megatron, "--hf", back, "--dtype", "fp32", "--workers", "2"),
        (*tools.verify, "--hf", hf, "--megatron", megatron, "--workers", "2"),
    ]
    above = [run_child(command, 300).peak_rss_mib - baseline for command in commands]
    # Modules are about 60 MiB, and each thread has a few blocks of 1 MiB; the largest tensor alone would be 98 more.
    assert max(above) < 140, above

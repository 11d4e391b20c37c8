"""Where conversions write: what they refuse, and what they leave when they end in the middle, which is nothing."""

import errno
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from megatron_eureka.checkpoints import (
    companions,
    files,
    hf_to_megatron,
    megatron_to_hf,
    new_folder,
    save_hf,
    streaming,
    to_megatron,
    verify,
)
from tests.checkpoints.rejections import K_PROJ, rejected, rewrite, snapshot

ROOT = Path(__file__).resolve().parents[2]


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
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


@pytest.mark.parametrize("name", ["letter.txt", "metadata.json", "config.json", "model.safetensors"])
def test_what_is_no_model_is_not_replaced(untied, tmp_path, name):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_text("{}")
    with pytest.raises(ValueError, match="is no model folder, so it is not overwritten"):
        hf_to_megatron(untied, tmp_path / "data", overwrite=True)
    assert (tmp_path / "data" / name).read_text() == "{}"
    (tmp_path / "data" / name).unlink()
    hf_to_megatron(untied, tmp_path / "data", overwrite=True)  # empty, it may be
    (tmp_path / "link").symlink_to(tmp_path / "data")
    with pytest.raises(ValueError, match="exists already"):
        hf_to_megatron(untied, tmp_path / "link", overwrite=True)


def test_source_and_target_lie_apart(hf, megatron):
    for convert, source in ((hf_to_megatron, hf), (megatron_to_hf, megatron)):
        for target in (source, source / "inside", source.parent):
            rejected(convert, source, target, "lie inside each other", overwrite=True)


def test_a_disk_that_is_too_small(hf, megatron, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(new_folder.shutil, "disk_usage", lambda folder: usage._replace(free=1_000_000))
    for convert, source in ((hf_to_megatron, hf), (megatron_to_hf, megatron)):
        rejected(convert, source, tmp_path / "out", "has 0.00 GB free, 0.01 GB are needed")
        rejected(convert, source, tmp_path / "out", "0.01 GB are needed", dry_run=True)


def test_a_dry_run_writes_nothing(hf, megatron, tmp_path):
    before = set(tmp_path.rglob("*"))
    there = hf_to_megatron(hf, tmp_path / "deep" / "out", tp=2, dry_run=True)
    back = megatron_to_hf(megatron, tmp_path / "deep" / "out", dry_run=True)
    assert set(tmp_path.rglob("*")) == before
    sizes = {file.name: file.stat().st_size for file in megatron.glob("*.distcp")}
    assert there.file_bytes == sizes and "would write" in str(there)
    megatron_to_hf(megatron, tmp_path / "back")
    assert back.file_bytes == {"model.safetensors": (tmp_path / "back" / "model.safetensors").stat().st_size}


def no_exchange(one, other):
    raise OSError(errno.EINVAL, "this file system cannot")


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
def test_a_replacement_that_fails_leaves_the_old_one(untied, tied, tmp_path, monkeypatch, exchange):
    target = tmp_path / "target"
    hf_to_megatron(untied, target)
    before, rename = snapshot(target), Path.rename

    def interrupted(one, other):
        if ".partial-" in one.name:
            raise KeyboardInterrupt
        return rename(one, other)

    monkeypatch.setattr(Path, "rename", interrupted)
    monkeypatch.setattr(new_folder, "_exchange", interrupted if exchange else no_exchange)
    with pytest.raises(KeyboardInterrupt):
        hf_to_megatron(tied, target, overwrite=True)
    assert snapshot(target) == before
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_replacement_without_exchange(untied, tied, tmp_path, monkeypatch):
    hf_to_megatron(untied, tmp_path / "target")
    monkeypatch.setattr(new_folder, "_exchange", no_exchange)
    hf_to_megatron(tied, tmp_path / "target", overwrite=True)
    assert verify(tied, tmp_path / "target").equal
    (tmp_path / "target").rename(tmp_path / ".target.replaced")  # killed between its two renames
    with pytest.raises(ValueError, match="exists already"):
        hf_to_megatron(untied, tmp_path / "target")
    assert verify(tied, tmp_path / "target").equal
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_links_in_the_place_of_hidden_folders_are_left_alone(untied, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("done")
    links = [tmp_path / f".out.partial-{socket.gethostname()}-x", tmp_path / ".out.replaced"]
    for link in links:
        link.symlink_to(precious)
    hf_to_megatron(untied, tmp_path / "out")
    assert (precious / "thesis.txt").read_text() == "done"
    assert not (tmp_path / "out").is_symlink() and all(link.is_symlink() for link in links)


def test_a_file_that_vanishes_before_the_end(untied, tmp_path, monkeypatch):
    """Such as by another node's process, whose lock this one does not see."""

    def meddle(folder, *arguments):
        (folder / "__0_0.distcp").write_bytes(b"short")
        write_index(folder, *arguments)

    write_index = to_megatron.write_index
    monkeypatch.setattr(to_megatron, "write_index", meddle)
    with pytest.raises(RuntimeError, match="__0_0.distcp is gone or was changed by another program"):
        hf_to_megatron(untied, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_fsync_takes_every_file_and_the_folder(untied, tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(new_folder.os, "fsync", lambda number: synced.append(os.readlink(f"/proc/self/fd/{number}")))
    hf_to_megatron(untied, tmp_path / "out")
    assert not synced
    hf_to_megatron(untied, tmp_path / "again", fsync=True)
    names = {Path(path).name for path in synced}
    assert {path.name for path in (tmp_path / "again").rglob("*")} <= names
    assert any(name.startswith(".again.partial-") for name in names)


@pytest.mark.parametrize("direction", ["there", "back"])
def test_a_disk_that_fills_at_any_write_leaves_nothing(hf, megatron, tmp_path, monkeypatch, direction):
    """Heads, data, tails, small files and the index, each in turn, and the same process can start again."""
    convert, source = {"there": (hf_to_megatron, hf), "back": (megatron_to_hf, megatron)}[direction]
    write, left = files.os.pwrite, [0]

    def full(*arguments):
        left[0] -= 1
        return full_disk() if left[0] == 0 else write(*arguments)

    monkeypatch.setattr(files.os, "pwrite", full)
    beside = set(tmp_path.iterdir())
    for left[0] in (1, 2, 40):
        with pytest.raises(RuntimeError, match="was not written.*is full .*Make room"):
            convert(source, tmp_path / "out", workers=1)
        assert set(tmp_path.iterdir()) == beside
    monkeypatch.setattr(companions.shutil, "copyfile", lambda *_: full_disk())
    with pytest.raises(RuntimeError, match="was not written.*is full .*Make room"):
        convert(source, tmp_path / "out")
    assert set(tmp_path.iterdir()) == beside
    monkeypatch.undo()
    if direction == "there":  # torch's own writer would say "unexpected pos 704 vs 598"
        write_bytes = Path.write_bytes
        for name in ("common.pt", ".metadata"):

            def whole(file, data, name=name):
                return full_disk() if file.name == name else write_bytes(file, data)

            monkeypatch.setattr(Path, "write_bytes", whole)
            with pytest.raises(RuntimeError, match="was not written.*is full "):
                convert(source, tmp_path / "out")
            assert set(tmp_path.iterdir()) == beside
        monkeypatch.undo()
    convert(source, tmp_path / "out")


def test_an_export_to_a_full_disk_says_so_and_leaves_nothing(hf, tmp_path, monkeypatch):
    beside = set(tmp_path.iterdir())
    monkeypatch.setattr(files.os, "pwrite", lambda *_: full_disk())
    with pytest.raises(RuntimeError, match="out was not written.*is full .*Make room"):
        save_hf(tmp_path / "out", load_file(hf / "model.safetensors").items(), hf)
    assert set(tmp_path.iterdir()) == beside


def full_disk():
    raise OSError(errno.ENOSPC, "No space left on device")


def test_one_thread_that_fails_stops_the_others(untied, tmp_path, monkeypatch):
    """Long before the end: the others look at each block."""
    blocks = []
    write = to_megatron._Sink.write

    def second_fails(sink, data):
        blocks.append(1)
        time.sleep(0.01)
        if len(blocks) == 2:
            raise ValueError("the second block")
        write(sink, data)

    monkeypatch.setattr(streaming, "BLOCK_BYTES", 1024)
    monkeypatch.setattr(to_megatron._Sink, "write", second_fails)
    with pytest.raises(ValueError, match="the second block"):
        hf_to_megatron(untied, tmp_path / "out", workers=2)
    assert len(blocks) <= 4


# --- ends in the middle --------------------------------------------------------------------------------------------

SLOW = """
import sys, time
from megatron_eureka.checkpoints import hf_to_megatron, hf_writer, megatron_to_hf, to_megatron

def slowly(*arguments, write):
    time.sleep(0.01)
    write(*arguments)

for module in (to_megatron, hf_writer):
    module.write_at = lambda *arguments, write=module.write_at: slowly(*arguments, write=write)
print("ready", flush=True)
{"there": hf_to_megatron, "back": megatron_to_hf}[sys.argv[1]](sys.argv[2], sys.argv[3], workers=2)
"""


def written_after(time_s, file):
    try:
        return file.stat().st_mtime > time_s
    except FileNotFoundError:  # left by the process before, taken away by this one between the listing and here
        return False


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
        while not any(written_after(begin, file) for file in tmp_path.glob(".out.partial-*/*")):
            time.sleep(0.001)  # what the one before left does not count
        if delay_s:
            with pytest.raises(ValueError, match="Another process is writing"):
                convert(source, target)
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=30) == -signal.SIGKILL
        assert not target.exists()
        assert snapshot(source) == before
    assert len(list(tmp_path.glob(".out.partial-*"))) == 1  # hidden, and cleared away by the next one
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
    assert tool("hf_to_megatron", "--hf", hf, "--megatron", tmp_path / "other", "--tp", "0").returncode == 2


@pytest.mark.slow
def test_a_write_that_fails_in_the_middle(hf, tmp_path):
    """A limit on the size of files stands for a full disk: the system call fails, whatever was free before."""

    def limit():
        return (
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
        )

    failed = tool("hf_to_megatron", "--hf", hf, "--megatron", tmp_path / "megatron", preexec_fn=limit)
    assert failed.returncode == 1
    assert "was not written: [Errno 27]" in failed.stderr and failed.stderr.count("\n") == 1
    assert not list(tmp_path.glob("*megatron*"))


SLOW_TOOL = """
import runpy, sys, time
from megatron_eureka.checkpoints import to_megatron

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

    # A shell starts its background jobs with SIGINT ignored, and the tests may be one.
    def listen():
        return signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=listen)
    while not list(tmp_path.glob(".out.partial-*/*.distcp")):
        time.sleep(0.001)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]

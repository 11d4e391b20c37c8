"""Files that are whole or not there, and what a full disk says."""

import errno
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from megatron_eureka.files import DiskFull, naming_full_disk, new_file, only_writer, temporary_name, write_atomically

PACKAGE = Path(__file__).resolve().parents[1] / "megatron_eureka"


def full_disk() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("content", ["a\nü\n", b"\x00\xff"])
def test_a_file_is_written_whole_with_the_rights_of_any_other_and_its_folder_is_made(tmp_path, content):
    target = tmp_path / "new" / "file"
    write_atomically(target, content)
    assert target.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    beside = target.with_name("beside")
    beside.touch()
    assert target.stat().st_mode == beside.stat().st_mode
    assert sorted(target.parent.iterdir()) == [beside, target]


def test_half_a_surrogate_pair_is_refused_or_replaced_as_asked(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        write_atomically(tmp_path / "file", "\ud83d")
    assert list(tmp_path.iterdir()) == []
    write_atomically(tmp_path / "file", "\ud83d", errors="replace")
    assert (tmp_path / "file").read_bytes() == b"?"


def test_after_a_failure_the_old_file_stands_and_nothing_is_left_beside_it(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), new_file(target) as file:
        file.write("new")
        raise KeyboardInterrupt
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_two_writers_of_one_file_do_not_touch_each_other(tmp_path):
    target = tmp_path / "file"
    with new_file(target) as first, new_file(target) as second:
        second.write("second")
        first.write("first")
    assert target.read_text() == "first" and list(tmp_path.iterdir()) == [target]  # closed last


def test_names_of_processes_with_the_same_id_differ(tmp_path):
    """As those of containers of two machines do, whose ids count from 1: a fork has its parent's random state too."""
    script = (
        "import os; from pathlib import Path; from megatron_eureka.files import temporary_name\n"
        "os.getpid = lambda: 1\n"
        "child = os.fork()\n"
        "os.write(1, f'{temporary_name(Path(\"a\"))}\\n'.encode())\n"
        "child and os.waitpid(child, 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    first, second = done.stdout.split()
    assert first != second and all(re.fullmatch(r"\.a\.[0-9a-f]{32}\.tmp", name) for name in (first, second))


def test_a_temporary_name_fits_however_long_the_targets_is(tmp_path):
    target = tmp_path / ("图" * 85)  # 255 bytes, which is all that a name may have
    assert len(temporary_name(target).name.encode()) <= 255
    write_atomically(target, "x")
    assert target.read_text() == "x"


def test_a_full_disk_is_named_with_what_to_do(tmp_path, monkeypatch):
    def fail(descriptor):
        raise full_disk()

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DiskFull) as caught:
        write_atomically(tmp_path / "new" / "file", "x")
    assert str(caught.value).startswith(f"{tmp_path}/new/file: the disk of {tmp_path}/new is full (")
    assert "Make room or give a folder on another disk" in str(caught.value)
    assert list((tmp_path / "new").iterdir()) == []


def test_a_full_disk_is_found_behind_what_a_library_makes_of_it(tmp_path):
    with pytest.raises(DiskFull, match="is full"), naming_full_disk(tmp_path / "file"):
        try:
            raise full_disk()
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904 (torch's writer says no cause either)


def test_a_writer_in_cpp_that_gives_no_reason_is_believed_where_no_room_is_left(tmp_path, monkeypatch):
    usage = type(__import__("shutil").disk_usage("/"))(10, 10, 0)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    with pytest.raises(DiskFull, match="is full"), naming_full_disk(tmp_path / "file"):
        raise RuntimeError("unexpected pos 704 vs 598")


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "denied"), RuntimeError("shape"), ValueError("bad")])
def test_other_failures_stay_what_they_are(tmp_path, error):
    with pytest.raises(type(error)) as caught, naming_full_disk(tmp_path / "file"):
        raise error
    assert caught.value is error


# Rooms that write beside others in ways of their own: whole folders, or one folder a process.
OWN_WAYS = {"checkpoints/new_folder.py", "train/checkpoint.py", "runs/folder.py"}


def found_in(pattern: str) -> set[str]:
    names = re.compile(pattern)
    return {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if names.search(path.read_text("utf-8"))}


def test_whatever_is_written_beside_others_gets_its_name_here():
    found = found_in(r"os\.(?:replace|rename)\(|\.rename\(|with_suffix\([^)]*getpid|\.tmp\"")
    assert found - OWN_WAYS == {"files.py"}


def test_locks_are_taken_here():
    assert found_in("fcntl|flock|filelock") == {"files.py"}


def test_a_lock_goes_with_its_process_however_that_ends_and_whatever_it_forked(tmp_path):
    lock = tmp_path / "lock"
    script = (
        "import os, sys, time; from pathlib import Path; from megatron_eureka.files import only_writer\n"
        "with only_writer(Path(sys.argv[1]), 'x', 'y'):\n"
        "    child = os.fork()\n"
        "    os.write(1, b'%d\\n' % child)\n"  # whole lines: an unbuffered print writes the end of one by itself
        "    time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(lock)], stdout=subprocess.PIPE, text=True)
    child = max(int(process.stdout.readline()) for _ in range(2))  # each says what fork gave it
    try:
        with pytest.raises(ValueError, match=r"Another process is writing x\. Wait for it or y\."):
            only_writer(lock, "x", "y").__enter__()
        process.kill()
        process.wait(timeout=30)
        with only_writer(lock, "x", "y"):
            pass
        os.kill(child, 0)  # it lives, and does not hold the lock
    finally:
        os.kill(child, 9)
        process.kill()
        process.stdout.close()


def test_who_only_looks_whether_a_lock_is_free_disturbs_no_writer(tmp_path):
    lock = tmp_path / "lock"
    with ThreadPoolExecutor(8) as threads, only_writer(lock, "x", "y"):
        tries = [threads.submit(lambda: only_writer(lock, "x", "y", wait_s=1.0).__enter__()) for _ in range(8)]
        assert all(isinstance(one.exception(timeout=30), ValueError) for one in tries)  # each waited, none for ever
    held = only_writer(lock, "x", "y")
    held.__enter__()
    with ThreadPoolExecutor(1) as threads:
        writer = threads.submit(lambda: only_writer(lock, "x", "y", wait_s=1.0).__enter__())
        time.sleep(0.3)  # it has asked by now
        held.__exit__(None, None, None)
        writer.result(timeout=30)


def test_a_file_system_without_locks_is_an_error_and_no_soft_lock(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", fail)
    with pytest.raises(OSError, match="not implemented"), only_writer(tmp_path / "lock", "x", "y"):
        pass

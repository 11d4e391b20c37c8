"""A checkpoint that a full disk or a broken copy cut off costs the steps since the one before, and is named."""

import os
import time

import pytest

from tests.train.runs import comparable, run

pytestmark = pytest.mark.slow


def killed(job, name: str) -> list[str]:
    """Options of a run that was killed in its fourth update, with three checkpoints behind it."""
    options = job.sft_options(name, checkpoint__every=1, checkpoint__keep=3)
    assert run("sft", options, "fit:4:1:kill").returncode == 1
    folders = sorted(path.name for path in (job.run_folder(name) / "checkpoints").iterdir())
    assert folders == ["step_1", "step_2", "step_3"]
    return options


def cut(job, name: str, step: int):
    """Cut the largest file of a checkpoint in half; returns it."""
    files = (job.run_folder(name) / "checkpoints" / f"step_{step}").glob("*.distcp")
    torn = max(files, key=lambda file: file.stat().st_size)
    os.truncate(torn, torn.stat().st_size // 2)
    return torn


def test_a_run_goes_on_from_the_newest_whole_checkpoint(job):
    assert run("sft", job.sft_options("whole", checkpoint__every=1)).returncode == 0
    options = killed(job, "torn")
    torn, started = cut(job, "torn", 3), time.monotonic()
    result = run("sft", options)
    assert result.returncode == 0, result.stderr
    assert time.monotonic() - started < 60  # the time-out of collectives: nobody waited for it
    assert f"{torn} is cut off" in result.stderr and "goes on from the checkpoint before" in result.stderr
    assert "after step 2" in result.stderr
    left = sorted(path.name for path in (job.run_folder("torn") / "checkpoints").iterdir())
    assert left == ["step_2", "step_3", "step_3.damaged", "step_4"]
    resumed, expected = comparable(job.metrics("torn")), comparable(job.metrics("whole"))
    assert resumed.keys() == expected.keys()
    for key, value in expected.items():
        assert resumed[key] == pytest.approx(value, abs=1e-6), key  # float32; in practice the bits are the same


def test_damaged_bytes_are_found_at_the_load_and_their_file_is_named(job):
    options = killed(job, "damaged")
    files = (job.run_folder("damaged") / "checkpoints" / "step_3").glob("*.distcp")
    file = max(files, key=lambda file: file.stat().st_size)
    with open(file, "r+b") as stream:
        stream.write(b"\0" * (file.stat().st_size // 2))
    result = run("sft", options)
    assert result.returncode == 0, result.stderr
    assert f"{file} is damaged: its check sums do not hold" in result.stderr and "weights_only" not in result.stderr
    assert "after step 2" in result.stderr


def test_without_a_whole_one_nothing_begins_again_unasked(job):
    options = killed(job, "all-torn")
    for step in (1, 2, 3):
        torn = cut(job, "all-torn", 4 - step)
    result = run("sft", options)
    assert result.returncode == 2, result.stderr
    assert f"{torn} is cut off" in result.stderr and "No other checkpoint" in result.stderr
    assert "logging.resume=never and logging.overwrite=true" in result.stderr

"""What a user gets for bad input and failing parts: one clear message, an exit code, no hang, nothing half-done."""

import json
import shutil
import signal
import time

import psutil
import pytest

from tests.train.runs import end, run, start

BAD_INPUT, FAILED = 2, 1


def rejected(result, *parts: str) -> None:
    """Exit code 2, and a message without a traceback that holds all parts."""
    assert result.returncode == BAD_INPUT, result.stderr
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr, result.stderr


@pytest.mark.parametrize(
    "override, parts",
    [
        ("rollout.temprature=1", ["rollout.temprature", "rollout.temperature"]),
        ("train.steps=many", ["train.steps", "many"]),
        ("parallel.tp=4 launch.ranks=4", ["parallel.tp", "key-value"]),
        ("parallel.pp=3 launch.ranks=3 parallel.tp=1", ["parallel.pp", "layers"]),
        ("launch.ranks=3", ["3 ranks", "parallel.tp"]),
        ("model.path=/nowhere", ["model.path", "/nowhere"]),
        ("model.path=docs", ["model.path: docs is no model folder", "Hugging Face", "Megatron"]),
        ("model.path=", ["model.path is empty"]),
        ("parallel.cp=2", ["parallel.cp"]),
    ],
)
def test_options_that_cannot_work_are_refused_before_ranks_start(job, override, parts):
    began = time.monotonic()
    rejected(run("train", [*job.options("refused"), *override.split()]), *parts)
    assert time.monotonic() - began < 30  # no ranks were started: those take this long on a busy machine
    assert not job.run_folder("refused").exists()


@pytest.mark.slow
def test_a_truncated_weight_file_is_named(job, tmp_path):
    shutil.copytree(job.folder / "model", tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    rejected(run("sft", job.sft_options("truncated", model__path=tmp_path / "model")), "model.safetensors")
    assert not (job.run_folder("truncated") / "checkpoints" / "step_4").exists()


@pytest.mark.slow
def test_an_image_that_is_none_is_named_by_line_or_skipped_and_counted(job, tmp_path):
    lines = (job.folder / "data" / "sft.jsonl").read_text("utf-8").splitlines()[:16]
    broken = json.loads(lines[2])
    broken["message"] = [{"role": "user", "content": [{"type": "image", "image": str(tmp_path / "no.png")}]}]
    (tmp_path / "no.png").write_bytes(b"this is text")
    lines[2] = json.dumps(broken)
    file = tmp_path / "bad.jsonl"
    file.write_text("\n".join(lines) + "\n", "utf-8")
    images = job.folder / "data"
    options = {"data__train": f"[{file}]", "data__image_root": images, "train__steps": 1}
    rejected(run("sft", job.sft_options("broken", **options)), f"{file}:3", "no.png")
    skipped = run("sft", job.sft_options("skipped", data__on_error="skip", **options))
    assert skipped.returncode == 0, skipped.stderr
    assert f"{file}:3" in skipped.stderr and "Left out 1 of 16 lines" in skipped.stderr


@pytest.mark.slow
def test_a_label_that_cannot_be_verified_is_named_by_line(job, tmp_path):
    line = json.loads((job.folder / "data" / "train.jsonl").read_text("utf-8").splitlines()[0])
    line["answer"] = r"\frac{"
    file = tmp_path / "label.jsonl"
    file.write_text(json.dumps(line) + "\n", "utf-8")
    options = job.options("label", data__train=f"[{file}]", data__image_root=job.folder / "data")
    rejected(run("train", options), f"{file}:1", "cannot parse")


@pytest.mark.slow
def test_an_engine_that_raises_ends_the_run_and_is_named(job):
    result = run("train", job.options("engine", train__steps=1), "vllm:2:1:raise")
    assert result.returncode == FAILED
    message = result.stderr[result.stderr.index("error: ") :]
    assert message.startswith("error: rank 1 failed: Engine 1 (rank 1) failed to generate: RuntimeError: a fault was")


@pytest.mark.slow
def test_a_rank_that_raises_is_named_first_and_ends_the_others(job):
    began = time.monotonic()
    result = run("sft", job.sft_options("raising"), "fit:2:1:raise")
    assert result.returncode == FAILED
    assert "error: rank 1 failed: a fault was asked for" in result.stderr
    assert time.monotonic() - began < 60


@pytest.mark.slow
def test_a_full_disk_while_saving_is_named_and_leaves_the_older_checkpoint(job):
    result = run("sft", job.sft_options("full", checkpoint__every=2), "save:2:0:full")
    assert result.returncode == FAILED
    assert "the disk of" in result.stderr and "is full" in result.stderr and "Make room" in result.stderr
    names = sorted(path.name for path in (job.run_folder("full") / "checkpoints").iterdir())
    assert names == ["step_2"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_ranks_within_seconds(job, number):
    process = start("sft", job.sft_options(f"signal{number}", train__steps=100000))
    try:
        for line in process.stderr:
            if line.startswith("step 1/"):  # long runs say few of the others
                break
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 2
        process.send_signal(number)
        began = time.monotonic()
        _, err = process.communicate(timeout=30)
        assert time.monotonic() - began < 10
        assert process.returncode == 128 + number and f"stopped by {number.name}" in err
        psutil.wait_procs(family, timeout=5)
        assert not [child for child in family if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    finally:
        end(process)


@pytest.mark.slow
def test_ranks_end_with_a_launcher_that_is_killed(job):
    process = start("sft", job.sft_options("orphans", train__steps=100000))
    try:
        for line in process.stderr:
            if line.startswith("step 1/"):  # long runs say few of the others
                break
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait(timeout=10)
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not alive
    finally:
        end(process)


@pytest.mark.slow
def test_another_layout_on_resume_is_refused_with_both_named(job):
    assert run("sft", job.sft_options("layout", checkpoint__every=2), "save:2:0:kill").returncode == FAILED
    result = run("sft", job.sft_options("layout", parallel__tp=2))
    rejected(result, "tp 1", "tp 2")

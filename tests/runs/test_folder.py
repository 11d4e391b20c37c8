"""Who may write a run folder, and what is left of one that was cut off."""

import json
import subprocess
import sys

import pytest

from megatron_eureka.runs.folder import RunFolder

OPEN = {"resolved_config": "a: 1\n", "resume": "auto", "overwrite": False}


def make(tmp_path) -> RunFolder:
    folder = RunFolder(str(tmp_path), "run")
    folder.open(**OPEN)
    return folder


def test_a_live_run_is_refused_even_with_overwrite(tmp_path):
    folder = make(tmp_path)
    code = (
        "from megatron_eureka.runs.folder import RunFolder\n"
        f"RunFolder({str(tmp_path)!r}, 'run').open('', 'auto', overwrite=True)"
    )
    other = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60)
    assert other.returncode == 1 and "Another process is writing" in other.stderr
    assert (folder.path / "config.yaml").read_text() == "a: 1\n"
    folder.close()


def test_a_finished_run_is_refused_unless_overwritten(tmp_path):
    folder = make(tmp_path)
    folder.metrics.write_text("{}\n")
    folder.finish({"steps": 1})
    folder.close()
    with pytest.raises(ValueError, match="finished.*overwrite"):
        make(tmp_path)
    again = RunFolder(str(tmp_path), "run")
    again.open(**{**OPEN, "overwrite": True})
    assert not again.metrics.exists()
    again.close()


def test_a_cut_off_run_goes_on_unless_told_otherwise(tmp_path):
    folder = make(tmp_path)
    folder.metrics.write_text('{"step": 1}\n')
    folder.close()
    make(tmp_path).close()
    with pytest.raises(ValueError, match="cut off"):
        RunFolder(str(tmp_path), "run").open(**{**OPEN, "resume": "never"})


def test_overwriting_spares_a_run_that_was_cut_off(tmp_path):
    """A requeued job starts with the options it was submitted with; it must not begin again."""
    folder = make(tmp_path)
    (folder.checkpoints / "step_9").mkdir()
    folder.close()
    again = RunFolder(str(tmp_path), "run")
    again.open(**{**OPEN, "overwrite": True})
    assert again.last_checkpoint().name == "step_9"
    again.close()
    anew = RunFolder(str(tmp_path), "run")
    anew.open(**{**OPEN, "overwrite": True, "resume": "never"})
    assert anew.last_checkpoint() is None
    anew.close()


def test_going_on_under_other_options_is_refused_by_name(tmp_path):
    folder = RunFolder(str(tmp_path), "run")
    folder.open("optimizer: {lr: 1.0}\ntrain: {steps: 4}\n", "auto", False)
    folder.close()
    RunFolder(str(tmp_path), "run").open("optimizer: {lr: 2.0}\ntrain: {steps: 4}\n", "auto", False)  # nothing to keep
    (folder.checkpoints / "step_2").mkdir()
    with pytest.raises(ValueError, match="optimizer.lr: 2.0 before, 1.0 now"):
        RunFolder(str(tmp_path), "run").open("optimizer: {lr: 1.0}\ntrain: {steps: 4}\n", "auto", False)
    longer = RunFolder(str(tmp_path), "run")
    longer.open("optimizer: {lr: 2.0}\ntrain: {steps: 8}\n", "auto", False)
    longer.close()


def test_rewinding_drops_later_lines_cut_lines_and_half_written_checkpoints(tmp_path):
    folder = make(tmp_path)
    folder.metrics.write_text("".join(json.dumps({"step": s, "x": s}) + "\n" for s in (0, 1, 2, 3)) + '{"step": 2, "x')
    for step in (1, 3):
        (folder.rollouts / f"step_{step}.jsonl").write_text("{}")
    for name in ("step_2", "step_10", "step_12.tmp"):
        (folder.checkpoints / name).mkdir()
    assert folder.last_checkpoint().name == "step_10"
    folder.rewind(2)
    assert [json.loads(line)["x"] for line in folder.metrics.read_text().splitlines()] == [0, 1, 2]
    assert [file.name for file in folder.rollouts.iterdir()] == ["step_1.jsonl"]
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == ["step_10", "step_2"]
    folder.close()

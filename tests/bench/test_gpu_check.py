"""gpu_check on a machine without CUDA: what it runs, what it skips by name, and that a wrong number fails it."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tools.bench import gpu_check, gpu_comparisons, gpu_timings
from tools.bench.gpu_comparisons import CHECKPOINT, QUANTITIES, RATIO, RL_PROGRAMS, compare, judge
from tools.bench.gpu_variants import COMPARED, CPU_ROWS, CUDA_BF16, CUDA_FLASH, CUDA_TE_FLASH, TIMED, why_not

ROOT = Path(__file__).resolve().parents[2]


def results(value: float = 2.0) -> dict:
    """What the programs would give, with arbitrary numbers."""
    programs = {}
    for quantity in QUANTITIES:
        programs.setdefault(quantity.program, {})[quantity.name] = torch.full((4,), value)
    for program in RL_PROGRAMS:
        programs[program]["first_ratio"] = torch.zeros(2)
    programs["model"]["checkpoint"] = torch.tensor(0)
    return programs


def changed(program: str, name: str, by: float) -> dict:
    """The same with one number of a quantity moved."""
    wrong = results()
    wrong[program][name][1] += by
    return wrong


@pytest.mark.slow
def test_without_cuda_two_cuts_are_compared_and_the_rest_is_skipped_by_name(tmp_path):
    out = tmp_path / "report.json"
    command = [sys.executable, "tools/bench/gpu_check.py", "--out", str(out), "--limit-s", "400"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=420)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(out.read_text("utf-8"))
    assert report.keys() == {
        *("date", "commit", "modified", "device", "versions", "seconds", "counts", "checks", "timings")
    }
    assert report["device"]["kind"] == "cpu"
    assert report["versions"]["megatron-core"] == "0.16.1"
    checks = {check["name"]: check for check in report["checks"]}
    assert len(checks) == len(report["checks"])
    labels = [*(quantity.label for quantity in QUANTITIES), RATIO, CHECKPOINT]
    for variant in COMPARED:
        for label in labels:
            check = checks.pop(f"{label} [{variant.name}]")
            assert check["reason"]
            if variant is CPU_ROWS:
                assert check["status"] == "passed"
                assert 0 <= check["value"] <= check["tolerance"]
            else:
                assert (check["status"], check["value"], check["reason"]) == (
                    *("skipped", None, "torch sees no CUDA device"),
                )
    assert checks.keys() == {f"timings [{variant.name}]" for variant in TIMED}
    assert {check["status"] for check in checks.values()} == {"skipped"}
    assert report["timings"] == []
    assert report["counts"]["failed"] == 0
    # Another cut is another order of thousands of sums: zero everywhere would mean a run compared with itself.
    assert any(check["value"] for check in report["checks"] if check["name"].endswith(f"[{CPU_ROWS.name}]"))


@pytest.mark.parametrize("quantity", QUANTITIES, ids=lambda quantity: quantity.label)
def test_a_number_beyond_its_tolerance_fails_its_check_and_no_other(quantity):
    factor = {"max_abs": 1, "mean_abs": 4, "max_rel": 2, "norm_rel": 4}[quantity.metric.__name__]  # 4 numbers, all 2.0
    for by, status in ((0.5 * quantity.fp32 * factor, "passed"), (2 * quantity.fp32 * factor, "failed")):
        checks = compare(CPU_ROWS, changed(quantity.program, quantity.name, by), results(), None)
        by_name = {check.name: check.status for check in checks}
        assert by_name.pop(f"{quantity.label} [{CPU_ROWS.name}]") == status
        assert set(by_name.values()) == {"passed"}


@pytest.mark.parametrize("program", RL_PROGRAMS)
def test_a_ratio_that_is_not_one_fails(program):
    checks = compare(CPU_ROWS, changed(program, "first_ratio", 1e-9), results(), None)
    assert [check.name for check in checks if check.status == "failed"] == [f"{RATIO} [{CPU_ROWS.name}]"]


def test_a_parameter_that_a_checkpoint_changes_fails():
    wrong = results()
    wrong["model"]["checkpoint"] += 1
    checks = compare(CPU_ROWS, wrong, results(), None)
    assert [check.name for check in checks if check.status == "failed"] == [f"{CHECKPOINT} [{CPU_ROWS.name}]"]


def test_bf16_is_judged_by_what_bf16_costs_on_the_cpu():
    yardstick = changed("sft", "losses", 0.02)
    within, beyond = changed("sft", "losses", 0.05), changed("sft", "losses", 0.07)  # three times 0.02 is allowed

    def status(got, against):
        return {check.name: check for check in compare(CUDA_BF16, got, results(), against)}[
            f"sft/losses [{CUDA_BF16.name}]"
        ]

    assert status(within, yardstick).status == "passed"
    assert status(within, yardstick).tolerance == pytest.approx(0.06, rel=1e-5)
    assert status(beyond, yardstick).status == "failed"
    # neither a lucky nor a hopeless yardstick decides alone
    assert status(within, results()).tolerance == 0.01
    assert status(within, changed("sft", "losses", 5.0)).tolerance == 0.2


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_fails_and_can_be_written(value):
    check = judge("x", value, 1.0, "because")
    assert check.status == "failed"
    json.dumps(check.to_dict(), allow_nan=False)


def test_the_programs_are_those_that_are_compared():
    from tools.bench.gpu_programs import ALGORITHMS, PROGRAMS

    assert tuple(ALGORITHMS) == RL_PROGRAMS and set(PROGRAMS) == {quantity.program for quantity in QUANTITIES}


def test_every_missing_part_is_named():
    installed = {"transformer_engine"}.__contains__
    assert why_not(CUDA_BF16, False, installed) == "torch sees no CUDA device"
    assert why_not(CUDA_FLASH, True, installed) == "flash-attn is not installed"
    assert why_not(CUDA_TE_FLASH, True, {"flash_attn"}.__contains__) == "transformer-engine is not installed"
    assert why_not(CUDA_TE_FLASH, True, {"flash_attn", "transformer_engine"}.__contains__) is None


def fake_run(wrong: str | None, broken: str | None):
    """Stands in for `gpu_check.run`: writes arbitrary results at once; one variant's are wrong, one does not run."""

    def run(program, variant, argument, out, clock):
        if variant.name == broken:
            return "exit code 1: it broke"
        torch.save(changed("sft", "losses", 1.0) if variant.name == wrong else results(), out)
        return None

    return run


@pytest.mark.parametrize(("wrong", "broken", "code"), [(None, None, 0), ("yes", None, 1), (None, "yes", 1)])
def test_the_exit_code_says_whether_a_check_failed(wrong, broken, code, tmp_path, monkeypatch):
    out = tmp_path / "report.json"
    name = CPU_ROWS.name
    monkeypatch.setattr(gpu_check, "run", fake_run(wrong and name, broken and name))
    monkeypatch.setattr(gpu_check, "make_model", lambda *arguments, **options: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--out", str(out)])
    with pytest.raises(SystemExit) as exit_:
        gpu_check.main()
    assert exit_.value.code == code
    failed = [check["name"] for check in json.loads(out.read_text("utf-8"))["checks"] if check["status"] == "failed"]
    assert failed == {0: [], 1: [f"sft/losses [{name}]" if wrong else f"programs run [{name}]"]}[code]


def test_nothing_is_compared_with_a_reference_that_did_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "run", fake_run(None, "cpu fp32"))
    monkeypatch.setattr(gpu_check, "make_model", lambda *arguments, **options: None)
    checks = gpu_check.check_variants(tmp_path, False, gpu_check.Clock(10))
    assert [check.status for check in checks].count("failed") == 1
    assert not any(check.status == "passed" for check in checks)


@pytest.mark.slow
def test_the_timing_program_runs_at_a_tiny_size(tmp_path):
    """On the CPU; the numbers mean nothing there, but the program that a GPU runs does not break unseen."""
    out = tmp_path / "timings.json"
    variant = gpu_check.Variant("cpu bf16", "cpu", "bf16")
    assert gpu_check.run("gpu_timings.py", variant, "tiny", out, gpu_check.Clock(120)) is None
    records = json.loads(out.read_text("utf-8"))
    assert [record["name"] for record in records] == [
        "forward and backward, a prompt shared by 3 responses",
        "forward and backward, 4 sequences",
        "optimizer step",
    ]
    assert [record.get("tokens") for record in records] == [64, 128, None]
    assert all(len(record["seconds"]) == gpu_timings.REPEATS and record["median_s"] > 0 for record in records)


@pytest.mark.slow
def test_a_program_that_breaks_or_runs_out_of_time_says_so(tmp_path):
    variant = gpu_check.Variant("cpu fp32", "cpu", "fp32", spec="no such spec")
    failure = gpu_check.run("gpu_programs.py", variant, str(tmp_path), tmp_path / "out.pt", gpu_check.Clock(120))
    assert failure.startswith("exit code 1: ")
    assert "no such spec" in failure
    late = gpu_check.Clock(0.0)
    assert "ran out" in gpu_check.run("gpu_programs.py", variant, str(tmp_path), tmp_path / "out.pt", late)


@pytest.mark.slow
def test_training_needs_no_vllm():
    """A GPU machine without vLLM runs gpu_check; None in sys.modules makes an import fail."""
    modules = ("policy", "batch", "update", "sft")
    code = "import sys; sys.modules['vllm'] = None; " + "; ".join(f"import megatron_eureka.train.{m}" for m in modules)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_metrics_by_hand():
    got, expected = torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0])
    assert gpu_comparisons.max_abs(got, expected) == 0.5
    assert gpu_comparisons.mean_abs(got, expected) == 0.25
    assert gpu_comparisons.max_rel(got, expected) == 0.125
    assert gpu_comparisons.norm_rel(got, expected) == 0.1

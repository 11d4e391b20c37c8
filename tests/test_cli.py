"""The command line without ranks: plans, help, and the console script."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import megatron_eureka

ROOT = Path(__file__).resolve().parents[1]


def cli(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "megatron_eureka", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)


@pytest.mark.parametrize(
    "config, grid, last",
    [
        ("configs/digits/grpo.yaml", "2 ranks = tp 2 x cp 1 x dp 1 x pp 1 (vpp 1)", "is not there yet"),
        ("configs/digits/sft.yaml", "2 ranks = tp 1 x cp 1 x dp 2 x pp 1 (vpp 1)", "is not there yet"),
        ("configs/qwen2_5_vl_7b_1node.yaml", "8 ranks = ", "memory of the fullest rank"),
    ],
)
def test_a_plan_shows_resolved_options_and_the_rank_grid(config, grid, last, tmp_path):
    options = ["train.seed=7", f"logging.root={tmp_path}"]  # whatever lies in runs/ here
    for flags in ((), ("-v",)):
        result = cli("sft" if "sft" in config else "train", config, *options, "--dry-run", *flags)
        assert result.returncode == 0, result.stderr
        plan, _, reported = result.stdout.partition("\n\n")
        assert plan.startswith(grid) and "stage 0, replica 0: ranks 0" in plan and last in plan
        found = yaml.safe_load(reported)
        assert found["train"]["seed"] == 7
        assert ("top_p" in found.get("rollout", {})) == bool(flags)  # a default


def test_a_plan_of_a_published_model_is_checked_against_its_sizes():
    result = cli("train", "configs/qwen2_5_vl_7b_1node.yaml", "parallel.tp=8", "--dry-run")
    assert result.returncode == 2 and "key-value heads" in result.stderr


def test_several_problems_are_told_together():
    result = cli("train", "configs/digits/grpo.yaml", "reward.services=[ftp://x]", "parallel.tp=3", "--dry-run")
    assert result.returncode == 2
    assert "'ftp://x' is no http address" in result.stderr and "tp" in result.stderr


@pytest.mark.parametrize("command", ["train", "sft"])
def test_help_has_examples(command):
    result = cli(command, "--help")
    assert result.returncode == 0
    assert f"megatron-eureka {command} configs/digits/" in result.stdout and "--dry-run" in result.stdout


def test_the_console_script_is_the_same_program():
    script = Path(sys.executable).with_name("megatron-eureka")
    result = subprocess.run([script, "--help"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0 and "train" in result.stdout and "sft" in result.stdout


def test_it_tells_its_version():
    result = cli("--version")
    assert (result.returncode, result.stdout) == (0, f"megatron_eureka {megatron_eureka.__version__}\n")
    assert f'version="{megatron_eureka.__version__}"' in (ROOT / "setup.py").read_text("utf-8")


def test_a_shell_completes_commands_and_options():
    script = Path(sys.executable).with_name("megatron-eureka")
    shell = {"_MEGATRON_EUREKA_COMPLETE": "complete_bash", "COMP_WORDS": "megatron-eureka co", "COMP_CWORD": "1"}
    environment = {**os.environ, **shell}
    done = subprocess.run([script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["convert"]


def test_converters_are_commands_with_the_options_of_the_scripts():
    for name in ("hf-to-megatron", "megatron-to-hf", "verify"):
        command = [sys.executable, f"tools/convert/{name.replace('-', '_')}.py", "--help"]
        script = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT).stdout
        ours = cli("convert", name, "--help").stdout
        assert "--hf" in ours and ours.partition("\n")[2] == script.partition("\n")[2]


def test_a_converter_refuses_bad_input(tmp_path):
    result = cli("convert", "verify", "--hf", str(tmp_path / "gone"), "--megatron", str(tmp_path))
    assert result.returncode == 2 and result.stderr.startswith("error: ") and "gone" in result.stderr

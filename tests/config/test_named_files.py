"""Configurations by name: in a clone and in what a wheel is made of."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_eureka.config.load import load_config
from megatron_eureka.config.named_files import find_file, names

ROOT = Path(__file__).resolve().parents[2]


def test_every_file_has_a_name_of_its_own_and_reads_as_the_file_does():
    files = sorted((ROOT / "configs").rglob("*.yaml"))
    assert sorted(names().values()) == files and len(files) >= 14
    for name, file in names().items():
        assert load_config(name) == load_config(file)
    assert {"qwen2_5_vl_7b_1node", "dapo", "digits/grpo", "digits/base", "base"} <= names().keys()


def test_layers_may_be_names_files_and_options(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("train: {steps: 7}\n")
    config = load_config("qwen2_5_vl_7b_1node", ["dapo", str(mine), "parallel.tp=4"])
    assert (config.algorithm.clip_high, config.train.steps, config.parallel.tp) == (0.28, 7, 4)
    assert config.model.path == "Qwen/Qwen2.5-VL-7B-Instruct"


def test_a_file_of_that_name_comes_before_one_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dapo").write_text("train: {steps: 9}\n")
    assert find_file("dapo") == Path("dapo") and load_config("dapo").train.steps == 9


@pytest.mark.parametrize(
    "given, said",
    [
        ("dappo", "did you mean dapo?"),
        ("qwen2_5_vl_7b", "did you mean qwen2_5_vl_7b_1node?"),
        ("xyz", "there are base, digits/base, "),
        ("dapo.yaml", "or the name of one that comes along"),
        ("../digits/grpo", "did you mean digits/grpo?"),
    ],
)
def test_another_name_is_refused(given, said):
    with pytest.raises(ValueError) as error:
        load_config("base", [given])
    assert str(error.value).startswith(f"{given}: no such file") and said in str(error.value)


def test_what_a_wheel_is_made_of_finds_them_too(tmp_path):
    """Far from the repository, with nothing of it on the path."""
    build = tmp_path / "site-packages"
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path), "build_py"]
    subprocess.run([*command, "--build-lib", str(build)], cwd=ROOT, check=True, timeout=120, capture_output=True)
    program = (
        "import megatron_eureka; from megatron_eureka.config.load import load_config;"
        "print(megatron_eureka.__file__, load_config('qwen2_5_vl_7b_1node', ['dapo']).algorithm.clip_high)"
    )
    environment = {**os.environ, "PYTHONPATH": str(build)}
    command = [sys.executable, "-P", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{build}/megatron_eureka/__init__.py 0.28\n", done.stderr
    built = {str(file.relative_to(build / "megatron_eureka" / "configs")) for file in build.rglob("configs/**/*.yaml")}
    assert built == {str(file.relative_to(ROOT / "configs")) for file in (ROOT / "configs").rglob("*.yaml")}

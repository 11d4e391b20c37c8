"""What a user copies from examples/: scripts, the custom reward and data, the 7B plan."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoProcessor

from examples.custom_reward.short_thinking import BONUS
from examples.digits.model import make_model
from megatron_eureka.config.checks import check
from megatron_eureka.config.load import load_config, option_fields
from megatron_eureka.data.images import ImageStore
from megatron_eureka.data.prompts import load_prompts
from megatron_eureka.families.source import ModelSource
from megatron_eureka.rewards.scorer import Scorer

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
MODEL = "Qwen/Qwen2.5-VL-7B-Instruct"  # its sizes are known, so that a plan needs no download


def run(command: list, **environment: str) -> subprocess.CompletedProcess:
    """A command from the root of the repository."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")} | environment
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "hf")


def processor_and_store(model, options):
    processor = AutoProcessor.from_pretrained(str(model))
    return processor, ImageStore.from_options(options, processor.image_processor)


# --- starting on GPUs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", sorted(EXAMPLES.rglob("*.sh")) + sorted(EXAMPLES.rglob("*.sbatch")), ids=str)
def test_scripts_parse(script):
    done = run(["bash", "-n", str(script)])
    assert done.returncode == 0, done.stderr


@pytest.fixture
def stubs(tmp_path):
    """A folder for PATH whose srun and python write down what they are asked to start; --dry-run runs for real."""
    folder = tmp_path / "bin"
    folder.mkdir()
    record = f'printf "%s\\n" "$@" > {tmp_path}/started\nenv > {tmp_path}/env\n'
    (folder / "srun").write_text(f"#!/bin/sh\n{record}")
    (folder / "scontrol").write_text(
        '#!/bin/sh\ncase "$*" in\n"show hostnames gpu[3-4]") printf "gpu3\\ngpu4\\n" ;;\n'
        '"--oneliner show node gpu3") echo "NodeName=gpu3 NodeAddr=10.0.0.3 NodeHostName=gpu3" ;;\n*) exit 1 ;;\nesac\n'
    )
    python = f'#!/bin/sh\nfor last; do :; done\n[ "$last" = --dry-run ] && exec {sys.executable} "$@"\n{record}'
    (folder / "python").write_text(python)
    for stub in folder.iterdir():
        stub.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHON": str(folder / "python")}


def started(tmp_path) -> tuple[list[str], dict[str, str]]:
    lines = (tmp_path / "env").read_text().splitlines()
    return (tmp_path / "started").read_text().splitlines(), dict(line.split("=", 1) for line in lines if "=" in line)


def test_single_node_starts_torchrun_after_the_plan(stubs, tmp_path):
    script = EXAMPLES / "qwen2_5_vl_7b" / "single_node.sh"
    done = run(["bash", str(script), "train.steps=3"], MODEL=MODEL, DATA="/data/k12.jsonl", **stubs)
    assert done.returncode == 0, done.stderr
    assert "8 ranks = tp 2 x cp 1 x dp 4 x pp 1" in done.stdout
    arguments, environment = started(tmp_path)
    assert arguments == [
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "8", "-m", "megatron_eureka"),
        *("train", "configs/qwen2_5_vl_7b_1node.yaml", f"model.path={MODEL}", "data.train=[/data/k12.jsonl]"),
        *("launch.ranks=8", "train.steps=3"),
    ]
    assert environment["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"


def test_multi_node_starts_a_rank_a_gpu_after_the_plan(stubs, tmp_path):
    """Without SLURM; tests/launch submits the script to a real one."""
    slurm = {
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "gpu[3-4]",
        "SLURM_JOB_ID": "41234",
        "SLURM_NTASKS": "16",
        "SLURM_CPUS_PER_TASK": "8",
    }
    config = "configs/qwen2_5_vl_7b_1node.yaml"
    options = [f"model.path={MODEL}", "data.train=[/data/k12.jsonl]", "train.steps=3"]
    script = tmp_path / "slurm_script"  # sbatch runs a copy from its spool folder
    shutil.copy(EXAMPLES / "qwen2_5_vl_7b" / "multi_node.sbatch", script)
    done = run(["bash", str(script), config, *options], **stubs, **slurm)
    assert done.returncode == 0, done.stderr
    assert "16 ranks = tp 2 x cp 1 x dp 8 x pp 1" in done.stdout
    arguments, environment = started(tmp_path)
    assert arguments == [
        *("--ntasks=16", "--ntasks-per-node=8", "--distribution=block", "--kill-on-bad-exit=1", "--export=ALL"),
        *("--cpus-per-task=8", stubs["PYTHON"], "-m", "megatron_eureka", "train", config),
        *("launch.ranks=8", "launch.nodes=2", *options),
    ]
    assert (environment["MASTER_ADDR"], environment["MASTER_PORT"]) == ("10.0.0.3", "11234")
    assert "#SBATCH --requeue" in script.read_text()
    assert load_config(ROOT / config).logging.resume == "auto"


def test_a_plan_that_cannot_work_starts_nothing(stubs, tmp_path):
    script = EXAMPLES / "qwen2_5_vl_7b" / "single_node.sh"
    done = run(["bash", str(script), "parallel.tp=3"], MODEL=MODEL, DATA="/data/k12.jsonl", **stubs)
    assert done.returncode == 2
    assert "parallel.tp" in done.stderr
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("missing", ["MODEL", "DATA"])
def test_scripts_say_what_they_need(missing):
    given = {"MODEL": "x", "DATA": "y"}
    given.pop(missing)
    done = run(["bash", str(EXAMPLES / "qwen2_5_vl_7b" / "single_node.sh")], **given)
    assert done.returncode != 0
    assert f"{missing}: set it to" in done.stderr


# --- data ----------------------------------------------------------------------------------------------------------


def test_the_custom_data_loads_and_its_plan_works(model):
    config = load_config(EXAMPLES / "custom_data" / "grpo.yaml")
    check(config, ModelSource.open(model).info, config.launch.ranks)
    prompts = load_prompts(
        [ROOT / path for path in config.data.train], config.data, *processor_and_store(model, config.data)
    )
    assert [(prompt.id, len(prompt.images), prompt.answer) for prompt in prompts.prompts] == [
        *(("circles", 1, "3"), ("squares", 2, "3"), ("text", 0, r"\frac{3}{4}")),
    ]
    assert prompts.counters["loaded"] == prompts.counters["lines"] == 3


# --- a reward of one's own -----------------------------------------------------------------------------------------


def test_the_custom_reward_joins_the_total(monkeypatch):
    monkeypatch.chdir(ROOT)  # paths of functions start from the working directory
    config = load_config(EXAMPLES / "custom_reward" / "grpo.yaml")
    responses = [
        "<think> 3 + 5 </think><answer> 8 </answer>",  # short: the whole bonus
        f"<think> {'well ' * 175}</think><answer> 8 </answer>",  # half-way between 50 and 300 words
        f"<think> {'well ' * 300}</think><answer> 9 </answer>",  # too long, and wrong
        "8",  # no thinking
    ]
    with Scorer(config.reward, config.rollout.max_response_tokens) as scorer:
        rewards = scorer.score(["What is the sum?"] * 4, responses, ["8"] * 4)
    assert [reward["short_thinking"] for reward in rewards] == pytest.approx([BONUS, BONUS / 2, 0.0, 0.0])
    assert [reward["total"] for reward in rewards] == pytest.approx([1.5 + BONUS, 1.5 + BONUS / 2, 0.5, 1.0])


# --- documents -----------------------------------------------------------------------------------------------------

NAMES = ("README.md", "CONTRIBUTING.md", "docs/checkpoints.md", "docs/data.md", "docs/measurements/README.md")
DOCUMENTS = [ROOT / name for name in NAMES]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_name_files_and_options_that_exist(document):
    text = document.read_text("utf-8")
    named = set(re.findall(r"(?<![\w/.-])(?:configs|examples|tests|tools|docs|megatron_eureka)/[\w./-]*[\w/]", text))
    linked = {link for link in re.findall(r"\]\(([^)#:]+)\)", text)}
    assert named or document.parent != ROOT
    assert not [path for path in named if not (ROOT / path).exists()]
    assert not [path for path in linked if not (document.parent / path).exists()]
    options = set(re.findall(r"\b([a-z]+\.[a-z_]+)=", text)) - {"section.option"}
    assert options <= option_fields().keys()
    targets = set(re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"\bmake (demo|test[\w-]*|lint|venv|gpu-check)\b", text)) <= targets


def test_configurations_that_the_readme_trains_load():
    commands = re.findall(r"megatron-eureka (train|sft) (\S+\.yaml)((?: [\w.]+=\S+)*)", DOCUMENTS[0].read_text("utf-8"))
    assert len(commands) >= 4
    for _, file, overrides in commands:
        load_config(ROOT / file, overrides.split())


# --- plans ---------------------------------------------------------------------------------------------------------


def test_the_7b_plan_prints_options_grid_and_memory():
    done = run([sys.executable, "-m", "megatron_eureka", "train", "configs/qwen2_5_vl_7b_1node.yaml", "--dry-run"])
    assert done.returncode == 0, done.stderr
    assert "8 ranks = tp 2 x cp 1 x dp 4 x pp 1 (vpp 1)" in done.stdout
    assert "8 engines of tp 1, colocated" in done.stdout
    assert "memory of the fullest rank, GiB (estimate): training" in done.stdout

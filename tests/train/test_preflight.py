"""What a run would refuse its dry run refuses too, by the same look; a plan ahead of its model says what is missing."""

import fcntl
import importlib.util
import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from megatron_eureka.checkpoints import hf_to_megatron
from megatron_eureka.config.load import dump, load_config
from megatron_eureka.runs.folder import RunFolder
from megatron_eureka.train.preflight import preflight
from tests.train.runs import ROOT


@pytest.fixture
def look(job):
    """Preflight of the small GRPO job with changes: as a run and as its dry run, which must agree."""

    def look(name="preflight", ranks=2, **changes):
        config = load_config(ROOT / "configs/digits/grpo.yaml", job.options(name, **changes))
        answers = []
        for for_plan in (False, True):
            try:
                answers.append(preflight(config, "grpo", ranks, "grpo", for_plan=for_plan))
            except ValueError as error:
                answers.append(str(error))
        return answers

    return look


def rejected(answers, *parts):
    for answer in answers:
        assert isinstance(answer, str), answer
        for part in parts:
            assert part in answer, answer


def test_a_sound_job_passes_without_a_trace(look, job):
    for answer in look():
        assert answer.source.info.num_layers == 4 and answer.absent == ()
    assert not job.run_folder("preflight").exists()


def test_it_imports_nothing_heavy_before_it_has_refused():
    code = (
        "import sys\nfrom megatron_eureka.config.load import load_config\nimport megatron_eureka.cli\n"
        "from megatron_eureka.train.preflight import preflight\n"
        "config = load_config('configs/digits/grpo.yaml', ['data.train=[gone.jsonl]'])\n"
        "try:\n    preflight(config, 'grpo', 2, 'x')\nexcept ValueError as error:\n    print(error)\n"
        "print(sorted({'torch', 'transformers', 'vllm', 'megatron.core', 'math_verify'} & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert result.stdout.endswith("\n[]\n") and "model.path" in result.stdout, result.stdout + result.stderr


@pytest.mark.parametrize(
    "changes, parts",
    [
        ({"data__train": "[gone.jsonl, docs]"}, ["data.train: gone.jsonl: no such file", "docs: is a folder"]),
        ({"evaluation__data": "[gone.jsonl]"}, ["evaluation.data: gone.jsonl: no such file"]),
        ({"evaluation__benchmarks": "[k12=gone]"}, ["evaluation.benchmarks: gone (k12) is not there"]),
        ({"evaluation__benchmarks": "[mathvistaa=x]"}, ["'mathvistaa=x' is not NAME=PATH with a NAME of mathvista,"]),
        ({"evaluation__samples": 4}, ["needs a temperature above 0"]),
        ({"evaluation__pass_k": "[2]"}, ["does not fit evaluation.samples = 1"]),
        ({"data__image_root": "gone"}, ["data.image_root: gone: no such folder"]),
        ({"reward__functions": "[nofile.py:f]"}, ["nofile.py is missing"]),
        ({"reward__services": "[ftp://x]"}, ["'ftp://x' is no http address"]),
        ({"logging__name": "../x"}, ["logging.name = '../x'"]),
        ({"logging__root": "README.md"}, ["README.md is no folder that may be written to"]),
        ({"parallel__tp": 3}, ["2 ranks cannot be laid out"]),
    ],
)
def test_what_the_options_name_and_is_not_there(look, changes, parts):
    rejected(look(**changes), *parts)


def test_all_of_it_comes_at_once(look):
    answers = look(data__train="[gone.jsonl]", logging__name="a/b", reward__services="[ftp://x]")
    for answer in answers:
        assert len(answer.splitlines()) == 1 + 3


def test_packages_that_the_options_ask_for(look, monkeypatch):
    found = importlib.util.find_spec
    absent = {"wandb", "transformer_engine"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in absent else found(name, *more))
    rejected(
        look(logging__wandb_project="x"), "logging.wandb_project = 'x', but wandb is not installed", "`wandb` extra"
    )
    rejected(look(model__spec="te"), "model.spec is 'te', but transformer-engine is not installed")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: name in absent or found(name, *more))
    assert not isinstance(look(logging__wandb_project="x")[0], str)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rejected(look(model__spec="te"), "there is no CUDA device")


def test_a_reward_file_that_does_not_load(look, tmp_path):
    for body, reason in (("import no_such_module", "No module named 'no_such_module'"), ("1 / 0", "ZeroDivisionError")):
        file = tmp_path / "reward.py"
        file.write_text(f"{body}\ndef f(prompts, responses, labels):\n    return {{}}\n")
        rejected(look(reward__functions=f"[{file}:f]"), str(file), "cannot be loaded", reason)


def test_sft_does_not_look_at_rewards_and_evaluation(job):
    changes = ["reward.functions=[nofile.py:f]", "evaluation.data=[gone.jsonl]", "evaluation.benchmarks=[k12=gone]"]
    config = load_config(ROOT / "configs/digits/sft.yaml", [*job.sft_options("preflight"), *changes])
    assert preflight(config, "sft", 2, "sft", for_plan=True).absent == ()


# --- the run folder ------------------------------------------------------------------------------------------------


@pytest.fixture
def cut_off(job):
    """A run folder with a checkpoint of tp 2, as a killed run leaves it."""
    config = load_config(ROOT / "configs/digits/grpo.yaml", job.options("cut-off"))
    folder = RunFolder(str(job.folder / "runs"), "cut-off")
    folder.open(dump(config), "auto", False)
    (folder.checkpoints / "step_2").mkdir()
    layout = {"tp": 2, "pp": 1, "cp": 1, "dp": 1, "vpp": 1}
    (folder.checkpoints / "step_2" / "layout.json").write_text(json.dumps(layout))
    folder.metrics.write_text('{"step": 1}\n')
    folder.close()
    yield folder
    shutil.rmtree(folder.path)


def test_a_run_folder_that_is_taken(look, cut_off):
    assert not isinstance(look("cut-off")[1], str)  # it goes on
    rejected(look("cut-off", logging__resume="never"), "logging.resume is 'never'")
    rejected(look("cut-off", optimizer__lr=1e-4), "made under other options: optimizer.lr: 0.001 before, 0.0001 now")
    with open(cut_off.path / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rejected(look("cut-off", logging__overwrite="true"), "Another process is writing")
    cut_off.finish({"steps": 4})
    rejected(look("cut-off"), "is finished")
    assert not isinstance(look("cut-off", logging__overwrite="true")[1], str)


def test_ranks_that_look_at_once_do_not_take_each_other_for_another_run(look, cut_off, monkeypatch):
    with open(cut_off.path / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # rank 0 has it by now
        monkeypatch.setenv("RANK", "1")
        assert not isinstance(look("cut-off")[0], str)
        monkeypatch.setenv("RANK", "0")
        rejected(look("cut-off"), "Another process is writing")


def test_a_layout_that_the_checkpoint_contradicts(look, cut_off):
    answers = look("cut-off", parallel__tp=1, parallel__pp=2)
    rejected(answers, "step_2 was written by tp 2, pp 1, cp 1, dp 1, vpp 1; this run has tp 1, pp 2", "model.path=")
    rejected(look("cut-off", ranks=4), "this run has tp 2, pp 1, cp 1, dp 2")
    again = look("cut-off", parallel__tp=1, parallel__pp=2, logging__overwrite="true", logging__resume="never")
    assert not isinstance(again[0], str)  # it begins anew


# --- the model -----------------------------------------------------------------------------------------------------


@pytest.fixture
def model(job, tmp_path):
    return shutil.copytree(job.folder / "model", tmp_path / "model")


def test_weights_that_are_not_the_models(look, model):
    tensors = load_file(model / "model.safetensors")
    save_file({f"module.{name}": tensor for name, tensor in tensors.items()}, model / "model.safetensors")
    rejected(look(model__path=model), "model.path: ", "have no rule", "The prefix module. is")
    (model / "model.safetensors").unlink()
    rejected(look(model__path=model), "no weights are there")


def test_weights_of_integers_are_refused_though_names_and_shapes_fit(look, model):
    tensors = load_file(model / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    save_file({**tensors, name: tensors[name].to(torch.int8)}, model / "model.safetensors")
    rejected(look(model__path=model), name, "has dtype I8", "quantised")


def test_a_rope_that_the_trainer_does_not_have(look, model):
    config = json.loads((model / "config.json").read_text())
    config["text_config"]["rope_parameters"] |= {"rope_type": "yarn", "factor": 4.0}
    (model / "config.json").write_text(json.dumps(config))
    rejected(look(model__path=model), "model.path: ", "rope_parameters.rope_type is 'yarn'")


def test_small_files_that_are_missing_are_named(look, model):
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "chat_template.jinja"):
        (model / name).rename(model / "away")
        rejected(look(model__path=model), f"{model} lacks {name}", "Copy it from the model")
        (model / "away").rename(model / name)


def test_the_image_processor_of_an_old_release(look, model):
    file = model / "preprocessor_config.json"
    text = file.read_text()
    file.write_text(text.replace("Qwen2VLImageProcessor", "Qwen2_5_VLImageProcessor"))
    rejected(look(model__path=model), str(file), "'Qwen2_5_VLImageProcessor'", "Write 'Qwen2VLImageProcessor' there")
    for today in ("Qwen2VLImageProcessorFast", "Qwen2VLImageProcessorPil"):
        file.write_text(text.replace("Qwen2VLImageProcessor", today))
        assert not isinstance(look(model__path=model)[1], str)


@pytest.mark.parametrize(
    "name, content, part",
    [
        ("tokenizer.json", "{", "cannot be loaded"),
        ("preprocessor_config.json", "[", "cannot be loaded"),
        ("chat_template.jinja", "{% if %}", "The chat template in"),
        ("chat_template.jinja", "{{ messages[0]['role'] }}", "makes 0 image placeholders (<|image_pad|>)"),
    ],
)
def test_what_a_run_will_load_the_dry_run_loads(look, model, name, content, part):
    (model / name).write_text(content)
    answer = look(model__path=model)[1]
    assert isinstance(answer, str) and part in answer and len(answer) < 1000, answer


def test_a_tokenizer_of_another_size_than_the_model(look, model):
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens([f"<extra_{number}>" for number in range(40)])
    tokenizer.save_pretrained(model)
    answer = look(model__path=model)[1]
    assert "has ids up to 393, the model has 384 rows of embeddings" in answer


def test_an_image_token_of_another_model(look, model):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"image_token_id": 353}))
    assert "<|image_pad|> has the id 352 in the tokenizer" in look(model__path=model)[1]


def test_a_megatron_checkpoint_is_looked_at_too(look, model, tmp_path):
    hf_to_megatron(model, tmp_path / "megatron")
    assert look(model__path=tmp_path / "megatron")[1].source.info.num_layers == 4
    next((tmp_path / "megatron").glob("*.distcp")).unlink()
    rejected(look(model__path=tmp_path / "megatron"), "model.path: ", "__0_0.distcp is missing")


# --- plans ahead ---------------------------------------------------------------------------------------------------


def test_a_plan_ahead_of_the_model_tells_what_is_missing_and_a_run_refuses_it(look):
    run, plan = look(model__path="models/later", data__train="[gone.jsonl]")
    assert run.startswith("model.path: There is no folder 'models/later'")
    assert plan.source is None and plan.absent == (
        "data.train: gone.jsonl: no such file. Paths start from the working directory.",
    )

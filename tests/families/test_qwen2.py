"""A second family, text alone, on the whole way: load, logits, conversion, engines, a run."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from megatron_eureka.bridge import ShardedSource
from megatron_eureka.checkpoints import hf_to_megatron, megatron_to_hf, verify
from megatron_eureka.data.images import ImageStore
from megatron_eureka.data.processor import check_chat_template, load_processor
from megatron_eureka.families import read_sizes
from megatron_eureka.families.source import ModelSource
from megatron_eureka.parallel.layout import Layout
from tests.bridge.trainers import grid, shards
from tests.bridge.worker_state import worker_state
from tests.families.text_model import make_text_model
from tests.model.reference import hf_reference, merge, run_ours
from tests.ranks import run_ranks
from tests.train.runs import Job, run

CLOSE = 1e-5  # as of the other family: two float32 programs that sum in another order

# Of the 7B model on the hub.
PUBLISHED = {
    "architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu", "hidden_size": 3584, "intermediate_size": 18944,
    "max_position_embeddings": 32768, "max_window_layers": 28, "model_type": "qwen2", "num_attention_heads": 28,
    "num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
    "sliding_window": 131072, "tie_word_embeddings": False, "use_sliding_window": False, "vocab_size": 152064,
}  # fmt: skip


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def model(request, tmp_path_factory):
    return make_text_model(tmp_path_factory.mktemp("text") / "hf", tied=request.param, seed=1)


def test_sizes(model):
    info = read_sizes(PUBLISHED)
    assert (info.family, info.head_dim, info.vision, info.image_token_id) == ("qwen2", 128, None, None)
    assert sum(info.mrope_section) == info.head_dim // 2
    ours = ModelSource.open(model)
    assert (ours.info.num_layers, ours.family.title) == (4, "Qwen2.5")
    assert ours.info.tied == json.loads((model / "config.json").read_text())["tie_word_embeddings"]
    with pytest.raises(ValueError, match=r"rope_scaling.type is 'yarn'.*only default.*Set it to 'default'"):
        read_sizes(PUBLISHED | {"rope_scaling": {"type": "yarn", "factor": 4.0}})
    with pytest.raises(ValueError, match="use_sliding_window is true"):
        read_sizes(PUBLISHED | {"use_sliding_window": True})


def test_prompts_are_text_and_images_are_refused(model, tmp_path):
    processor = load_processor(ModelSource.open(model))
    check_chat_template(processor, model)
    turns = [{"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "it?"}]}]
    text = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\n"
    with pytest.raises(ValueError, match="x.png: the model reads text alone"):
        ImageStore(processor.image_processor, 1, 2, spill_dir=tmp_path).add("x.png")


@pytest.mark.parametrize("layout", [Layout(), Layout(tp=2), Layout(pp=2)], ids=str)
def test_logits_and_gradients_equal_transformers(model, layout):
    reference = hf_reference(str(model))
    ours = merge(run_ranks(layout.world_size, run_ours, str(model), layout, {"sp": layout.tp > 1}))
    assert torch.cat(reference["logits"]).std() >= 1
    for got, expected in zip(ours["logits"], reference["logits"], strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=CLOSE)
    torch.testing.assert_close(ours["logprobs"], reference["logprobs"], rtol=0, atol=CLOSE)
    assert ours["grads"].keys() == reference["grads"].keys()
    for name, grad in reference["grads"].items():
        assert (ours["grads"][name] - grad).norm() < 1e-5 * grad.norm(), name  # rounding of about 40 operations


def test_conversion_both_ways_keeps_every_byte(model, tmp_path):
    hf_to_megatron(model, tmp_path / "megatron", tp=2, pp=2)
    assert verify(model, tmp_path / "megatron").equal
    megatron_to_hf(tmp_path / "megatron", tmp_path / "hf")
    before, after = load_file(model / "model.safetensors"), load_file(tmp_path / "hf" / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_logits_of_a_converted_checkpoint_are_those_of_transformers(model, tmp_path):
    hf_to_megatron(model, tmp_path / "megatron")
    command = [sys.executable, "-m", "megatron_eureka", "convert", "verify", "--logits"]
    command += ["--hf", str(model), "--megatron", str(tmp_path / "megatron")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0 and "logits equal" in result.stdout, result.stdout + result.stderr


@pytest.mark.slow
def test_engines_follow_a_trainer_of_tp_2(tmp_path):
    start, trained = (make_text_model(tmp_path / str(seed), seed=seed) for seed in (1, 2))
    synced = run_ranks(2, _synced, start, trained, timeout=200)
    fresh = run_ranks(2, _fresh, trained, timeout=200)
    for got, expected in zip(synced, fresh, strict=True):
        assert got.keys() == expected.keys()
        assert [name for name in expected if not torch.equal(got[name], expected[name])] == []


def _synced(rank, world, start, trained):
    engine = _engine(start)
    tp_group, pp_group = grid(rank, 2, 1)
    info, parameters = shards(trained, rank, 2, 1)
    engine.update_weights(ShardedSource(parameters, info, tp_group=tp_group, pp_group=pp_group))
    return worker_state(engine)


def _fresh(rank, world, folder):
    return worker_state(_engine(folder))


def _engine(folder):
    from megatron_eureka.engines.colocated import ColocatedEngine, EngineOptions

    return ColocatedEngine(EngineOptions(ModelSource.open(folder), max_model_tokens=400))


@pytest.mark.slow
def test_three_steps_of_grpo_on_questions_without_images(tmp_path):
    sums = [(left, right) for left in range(10) for right in range(10)]
    lines = [{"message": [{"role": "user", "content": f"What is {a} + {b}?"}], "answer": str(a + b)} for a, b in sums]
    (tmp_path / "data").mkdir()
    for name in ("train", "heldout"):
        (tmp_path / "data" / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "reward.py").write_text(
        "def vowels(prompts, responses, labels):\n"
        "    return {'vowels': [sum(c in 'aeiou' for c in r) / max(1, len(r)) for r in responses]}\n"
    )
    make_text_model(tmp_path / "model", corpus=[line["message"][0]["content"] for line in lines])
    job = Job(tmp_path)
    result = run("train", job.options("text", train__steps=3, checkpoint__export="true"))
    assert result.returncode == 0, result.stderr
    steps = [line for line in job.metrics("text") if "actor/grad_norm" in line]
    assert [line["step"] for line in steps] == [1, 2, 3]
    for line in steps:  # the engine has the weights that the trainer has: float32 rounding is all that differs
        assert line["rollout_corr/probs_diff_max"] < 1e-4 and line["actor/grad_norm"] > 0
    assert steps[-1]["rollout/policy_version"] == 3
    before, after = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "model", job.run_folder("text") / "export")
    )
    assert before.keys() == after.keys() and all(not torch.equal(before[name], after[name]) for name in before)

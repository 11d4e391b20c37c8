"""Whole GRPO runs from the command line: what they log, and that one which was killed ends as one which was not."""

import json
import subprocess
import sys

import pytest
import torch
from PIL import Image

from tests.train.runs import ROOT, comparable, run

pytestmark = pytest.mark.slow


def read_lines(file) -> list[dict]:
    """JSON lines end at newlines alone: a random model's responses hold every other separator there is."""
    return [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]


@pytest.fixture(scope="module")
def straight(job):
    """A run that nobody disturbed."""
    result = run("train", job.options("straight", checkpoint__export="true"))
    assert result.returncode == 0, result.stderr
    return job.metrics("straight"), result.stderr


def test_a_run_logs_what_it_did(job, straight):
    metrics, console = straight
    steps = [line for line in metrics if "reward/total/mean" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    for name in ("rollout", "reward", "old_logprob", "update", "sync", "step"):
        assert all(line[f"timing_s/{name}"] > 0 for line in steps), name
    assert all(line["actor/grad_norm"] > 0 for line in steps)
    assert "step 4/4 | reward" in console and "left" in console
    folder = job.run_folder("straight")
    assert {"config.yaml", "metrics.jsonl", "rollouts", "checkpoints", "export", "finished.json"} <= {
        path.name for path in folder.iterdir()
    }
    assert any((folder / "tensorboard").iterdir())
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step_2", "step_4"]
    records = read_lines(folder / "rollouts" / "step_1.jsonl")
    assert len(records) == 16 and all(record["advantage"] is not None for record in records)


def test_benchmarks_are_asked_before_and_after(job, straight):
    rates = {line["step"]: line for line in straight[0] if "evaluation/jsonl/accuracy" in line}
    assert list(rates) == [0, 4]
    for step, line in rates.items():
        items = read_lines(job.run_folder("straight") / "evaluation" / f"step_{step}" / "jsonl.jsonl")
        assert len(items) == 8 and line["evaluation/jsonl/unanswered"] == 0
        assert line["evaluation/jsonl/accuracy"] == sum(item["correct"] for item in items) / 8
        # The same prompts as the held-out ones, answered greedily by the same weights.
        heldout = read_lines(job.run_folder("straight") / "evaluation" / f"step_{step}.jsonl")
        assert [item["response"] for item in heldout] == [item["response"] for item in items]


def test_the_policy_leaves_its_reference(straight):
    steps = [line for line in straight[0] if "actor/kl_loss" in line]
    assert len(steps) == 4
    assert steps[-1]["actor/kl_loss"] > steps[0]["actor/kl_loss"] > 0  # in step 1 the second of two updates sees one
    assert all(line["timing_s/ref_logprob"] > 0 for line in steps)


def test_the_first_update_of_a_step_is_on_policy_bitwise(straight):
    """Old and new log-probs come from the same rows under the same weights: their difference is exactly zero."""
    steps = [line for line in straight[0] if "actor/log_ratio_max/first" in line]
    assert len(steps) == 4
    assert all(line["actor/log_ratio_max/first"] == 0.0 for line in steps)
    assert any(line["actor/log_ratio_max"] > 0.0 for line in steps)  # the second update is off policy, and it shows


def test_the_engine_samples_from_the_policy_that_is_trained(straight):
    """After every sync: float32 rounding between two programs, not an update behind (which moves them by 1e-2)."""
    steps = [line for line in straight[0] if "rollout_corr/probs_diff_max" in line]
    assert all(line["rollout_corr/probs_diff_max"] < 1e-4 for line in steps)
    assert [line["rollout/policy_version"] for line in steps] == [1, 2, 3, 4]


def test_each_distinct_image_goes_through_the_frozen_tower_once(job, straight):
    """Samples, passes and ranks share an encoding; an image that comes again in the next step is still known."""
    steps = [line for line in straight[0] if "vision/tower_passes" in line]
    known: set[str] = set()
    for line in steps:
        file = job.run_folder("straight") / "rollouts" / f"step_{line['step']}.jsonl"
        records = read_lines(file)
        images = {record["messages"][0]["content"][0]["image"] for record in records}
        assert line["vision/distinct_images"] == len(images)
        assert line["vision/tower_passes"] == len(images - known)
        known = images


def test_images_are_decoded_once_a_rank(straight):
    """24 images are asked for (4 prompts x 4 steps, 8 held-out), each by both ranks at most: engine and trainer."""
    decoded = [line["perf/images_decoded"] for line in straight[0] if "perf/images_decoded" in line]
    assert len(decoded) == 4 and 24 <= sum(decoded) <= 2 * 24


def test_the_export_loads_and_has_the_trained_weights(job, straight):
    from transformers import AutoProcessor, AutoTokenizer, Qwen2_5_VLForConditionalGeneration

    export = job.run_folder("straight") / "export"
    before = Qwen2_5_VLForConditionalGeneration.from_pretrained(job.folder / "model", dtype=torch.float32).state_dict()
    after = Qwen2_5_VLForConditionalGeneration.from_pretrained(export, dtype=torch.float32).state_dict()
    assert before.keys() == after.keys()
    frozen = [name for name in before if ".visual." in name]
    assert frozen and all(torch.equal(before[name], after[name]) for name in frozen)
    assert all(not torch.equal(before[name], after[name]) for name in before if ".visual." not in name)
    assert AutoTokenizer.from_pretrained(export).chat_template
    assert AutoProcessor.from_pretrained(export).image_processor.patch_size == 14


def test_a_stock_vllm_and_transformers_agree_on_the_export(job, straight, tmp_path):
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    export = job.run_folder("straight") / "export"
    image = next((job.folder / "data" / "images").glob("*_*.png"))
    question = "<|im_start|>user\n{}Which of the two digits is larger?<|im_end|>\n<|im_start|>assistant\n"
    prompts = [
        {"text": question.format("<|vision_start|><|image_pad|><|vision_end|>"), "image": str(image)},
        {"text": question.format(""), "image": None},
    ]
    (tmp_path / "prompts.json").write_text(json.dumps(prompts), "utf-8")
    command = [sys.executable, "-m", "tests.train.stock_vllm", str(export), str(tmp_path / "prompts.json")]
    stock = subprocess.run(command, capture_output=True, text=True, timeout=180, cwd=ROOT)
    assert "RESULT " in stock.stdout, stock.stderr
    results = json.loads(stock.stdout.split("RESULT ")[1])
    processor = AutoProcessor.from_pretrained(export)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(export, dtype=torch.float32).eval()
    for prompt, result in zip(prompts, results, strict=True):
        inputs = {}
        if prompt["image"]:
            images = processor.image_processor(images=[Image.open(prompt["image"])], return_tensors="pt")
            inputs = {name: images[name] for name in ("pixel_values", "image_grid_thw")}
        ids = torch.tensor([[*result["prompt_ids"], *result["ids"]]])
        kinds = (ids == model.config.image_token_id).int()
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=kinds, **inputs).logits
        first = len(result["prompt_ids"]) - 1
        logprobs = logits[0, first:-1].log_softmax(-1).gather(1, torch.tensor(result["ids"])[:, None])[:, 0]
        assert logprobs.tolist() == pytest.approx(result["logprobs"], abs=1e-4)  # two float32 programs


@pytest.mark.parametrize("layout", [{"parallel__tp": 1, "parallel__pp": 2}, {"parallel__tp": 1}], ids=["pp2", "dp2"])
def test_other_layouts_and_engines_walk_the_same_path(job, straight, layout):
    """Three steps, so that weights cross to the engines in full and without the frozen ones; here in an engine of tp 2.

    The same samples are drawn and the same updates made; float32 sums in another order leave differences of 1e-6 that
    Adam's first steps, which turn even tiny gradients into full steps, make larger.
    """
    name = "-".join(f"{key}{value}" for key, value in layout.items())
    options = job.options(name, train__steps=3, checkpoint__every=0, rollout__tp=2, **layout)
    result = run("train", options)
    assert result.returncode == 0, result.stderr
    expected = comparable(straight[0])
    for key, value in comparable(job.metrics(name)).items():
        if key[0] in (1, 2, 3) and key[1].startswith(("reward/", "response_length/", "advantage/", "filter/")):
            assert value == expected[key], key
        if key[0] in (1, 2, 3) and key[1] in ("actor/loss", "actor/grad_norm", "actor/entropy"):
            assert value == pytest.approx(expected[key], rel=1e-2, abs=1e-4), key


def test_a_run_killed_in_a_rollout_an_update_and_a_save_ends_the_same(job, straight):
    """One run, killed three times: before any checkpoint, between two, and while the second is being written."""
    for fault, message in (
        ("generate:3:1:kill", "rank 1 was ended by SIGKILL"),  # 1: evaluation, 2: step 1, 3: step 2
        ("update:6:1:kill", "rank 1 was ended by SIGKILL"),  # two updates a step: step 3, after the checkpoint of 2
        ("save:1:0:kill", "rank 0 was ended by SIGKILL"),  # resumed after 2: the checkpoint of step 4
    ):
        result = run("train", job.options("killed"), fault)
        assert result.returncode == 1 and message in result.stderr, result.stderr
    saved = sorted(path.name for path in (job.run_folder("killed") / "checkpoints").iterdir())
    assert saved == ["step_2", "step_4.tmp"]
    result = run("train", job.options("killed"))
    assert result.returncode == 0, result.stderr
    assert "after step 2" in result.stderr
    resumed, expected = comparable(job.metrics("killed")), comparable(straight[0])
    assert resumed.keys() == expected.keys()
    for key, value in expected.items():
        assert resumed[key] == pytest.approx(value, abs=1e-5), key  # float32 sums; in practice the bits are the same
    assert (job.run_folder("killed") / "finished.json").exists()


def test_a_finished_run_is_not_touched(job, straight):
    before = (job.run_folder("straight") / "metrics.jsonl").read_bytes()
    result = run("train", job.options("straight"))
    assert result.returncode == 2 and "is finished" in result.stderr
    assert (job.run_folder("straight") / "metrics.jsonl").read_bytes() == before

"""Benchmarks during training: every rank asks, rank 0 scores and writes."""

import json
from pathlib import Path

import pytest
from transformers import AutoProcessor

from examples.digits.model import make_model
from megatron_eureka.config.schema import Config
from megatron_eureka.data.images import ImageStore
from megatron_eureka.engines.dealing import DealtEngine
from megatron_eureka.evaluate.periodic import evaluate_benchmarks, open_benchmarks
from megatron_eureka.types import FinishReason, Sample, VersionSpan
from tests.ranks import run_ranks

SAMPLES = Path(__file__).resolve().parents[2] / "examples" / "benchmarks" / "samples"


class ThreeSayer(DealtEngine):
    """Says 3 to everything, in one sample of two; notes what it was asked."""

    policy_version = 0

    def __init__(self, engine_index: int, num_engines: int, images: ImageStore):
        super().__init__(engine_index, num_engines, images)
        self.asked: list = []

    def generate(self, requests, sampling, on_samples=None):
        self.asked += [(request.prompt.id, len(request.images), request.seeds) for request in requests]
        self.sampling = sampling
        drawn_by = (VersionSpan(0, 0),)
        texts = ["<answer>3</answer>", "so", "so", "so"]
        return [
            tuple(Sample((1,), (0.0,), FinishReason.STOP, drawn_by, texts[i]) for i, _ in enumerate(request.seeds))
            for request in requests
        ]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"))


def _evaluate(rank, world, model, folder, evaluation, max_prompt_tokens=1024):
    config = Config.model_validate(
        {
            "data": {"min_pixels": 784, "max_prompt_tokens": max_prompt_tokens},
            "reward": {"workers": 1},
            "evaluation": evaluation,
        }
    )
    processor = AutoProcessor.from_pretrained(model)
    store = ImageStore.from_options(config.data, processor.image_processor)
    benchmarks = open_benchmarks(config, processor, store, folder / "benchmarks")
    engine = ThreeSayer(rank, world, store)
    metrics = evaluate_benchmarks(config, engine, benchmarks, folder / "step_2")
    return metrics, engine.asked, [opened.max_images for opened in benchmarks]


def test_two_ranks_share_the_questions_and_rank_0_counts(model, tmp_path):
    entries = [f"mathvista={SAMPLES / 'mathvista'}", f"jsonl={SAMPLES / 'jsonl'}"]
    ranks = run_ranks(2, _evaluate, model, tmp_path, {"benchmarks": entries})
    (metrics, asked, max_images), (others, also_asked, _) = ranks
    assert others == {} and max_images == [1, 1]
    assert [len(asked), len(also_asked)] == [4 + 3, 4 + 3]
    assert {name for name, _, _ in asked[:4]} | {name for name, _, _ in also_asked[:4]} == set("01234567")
    assert metrics["evaluation/mathvista/accuracy"] == pytest.approx(1 / 8)  # three bars, and nothing else is 3
    assert metrics["evaluation/jsonl/accuracy"] == 0.0
    assert metrics["evaluation/mathvista/truncated"] == metrics["evaluation/mathvista/unanswered"] == 0.0
    lines = [json.loads(line) for line in (tmp_path / "step_2" / "mathvista.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines if line["correct"]] == ["1"]
    assert Path(lines[0]["images"][0]).is_file()


def test_several_samples_give_pass_at_k(model, tmp_path):
    evaluation = {"benchmarks": [f"mathvista={SAMPLES / 'mathvista'}"], "samples": 4, "temperature": 0.5}
    ((metrics, asked, _),) = run_ranks(1, _evaluate, model, tmp_path, evaluation)
    assert metrics["evaluation/mathvista/accuracy"] == pytest.approx(1 / 8 / 4)
    assert metrics["evaluation/mathvista/pass_at_4"] == pytest.approx(1 / 8)
    seeds = [seed for _, _, seeds in asked for seed in seeds]
    assert len(seeds) == len(set(seeds)) == 32


def test_what_is_too_long_counts_as_wrong(model, tmp_path):
    """The plain question in the training format fits, those with images do not."""
    evaluation = {"benchmarks": [f"jsonl={SAMPLES / 'jsonl'}"]}
    ((metrics, asked, _),) = run_ranks(1, _evaluate, model, tmp_path, evaluation, 26)
    assert [name for name, _, _ in asked] == ["5"]
    assert metrics["evaluation/jsonl/unanswered"] == pytest.approx(5 / 6)
    lines = (tmp_path / "step_2" / "jsonl.jsonl").read_text().splitlines()
    assert "too long" in json.loads(lines[0])["refused"]


def test_nothing_happens_without_benchmarks_or_when_it_is_off(model, tmp_path):
    assert run_ranks(1, _evaluate, model, tmp_path, {}) == [({}, [], [])]
    off = {"enabled": False, "benchmarks": [f"jsonl={SAMPLES / 'jsonl'}"]}
    assert run_ranks(1, _evaluate, model, tmp_path, off) == [({}, [], [])]


def test_a_wrong_path_is_refused_on_every_rank(model, tmp_path):
    with pytest.raises(AssertionError, match="no such file or folder"):
        run_ranks(2, _evaluate, model, tmp_path, {"benchmarks": ["k12=nowhere"]})

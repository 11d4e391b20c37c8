"""The parts of the rollout that need no engine."""

import random
import shutil

import numpy as np
import pytest
import torch
from transformers import AddedToken, AutoTokenizer

from examples.digits.model import make_model
from megatron_eureka.config.schema import Config
from megatron_eureka.engines import SamplingOptions, sampling_seed, stop_token_ids, suppressed_token_ids
from megatron_eureka.engines.isolation import torch_state_kept
from megatron_eureka.engines.manifest import Manifest
from megatron_eureka.engines.options import EngineOptions
from megatron_eureka.engines.suppress import end_texts, without_end
from megatron_eureka.families.source import ModelSource
from megatron_eureka.rewards.format import TAGS


def test_seeds_are_stable_and_differ_in_every_argument():
    assert sampling_seed(0, 0, 0, 0) == 5854343820274218872
    seeds = {sampling_seed(*key) for key in np.ndindex(3, 4, 5, 6)}
    assert len(seeds) == 360
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert sampling_seed(1, 11, 1, 1) != sampling_seed(11, 1, 1, 1) != sampling_seed(1, 1, 11, 1)


def test_sampling_follows_the_config():
    config = Config(rollout={"temperature": 0.7, "top_p": 0.9, "top_k": 5, "max_response_tokens": 9, "stop": ["x"]})
    assert SamplingOptions.from_rollout(config.rollout) == SamplingOptions(0.7, 0.9, 5, 9, ("x",))
    assert SamplingOptions.from_rollout(config.rollout, greedy=True) == SamplingOptions(0.0, 1.0, -1, 9, ("x",))


def test_suppressed_are_special_tokens_and_padding_but_no_end_token(tmp_path):
    folder = make_model(tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert stop_token_ids(folder, tokenizer) == (end,)
    suppressed = suppressed_token_ids(384, tokenizer, (end,))
    assert len(suppressed) == 13 + (384 - 354)  # 14 special tokens less the end token; 354 tokens in 384 rows
    assert tokenizer.convert_tokens_to_ids("<|image_pad|>") in suppressed
    assert end not in suppressed and set(range(354, 384)) <= set(suppressed)
    assert not any(tokenizer.convert_tokens_to_ids(letter) in suppressed for letter in "abc012")


def test_tags_that_are_special_tokens_may_be_drawn(tmp_path):
    folder = make_model(tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    others, pair = ("<pad>", "<image>", "<s>", "</s>", "</left>"), ("<plan>", "</plan>")
    tokenizer.add_tokens([AddedToken(tag, special=True) for tag in (*TAGS, *others, *pair)], special_tokens=True)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    suppressed = suppressed_token_ids(384, tokenizer, (end,))
    assert len(suppressed) == 13 + len(others) + (384 - 354 - len(TAGS) - len(others) - len(pair))
    assert not {tokenizer.convert_tokens_to_ids(tag) for tag in (*TAGS, *pair)} & set(suppressed)
    assert {tokenizer.convert_tokens_to_ids(other) for other in others} <= set(suppressed)


def test_texts_are_without_the_special_token_that_ended_them(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(make_model(tmp_path / "m"))
    end, letter = tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.convert_tokens_to_ids("a")
    assert end_texts(tokenizer, (end, letter)) == {end: "<|im_end|>"}
    assert without_end("an answer<|im_end|>", "<|im_end|>") == "an answer"
    assert without_end("<|im_end|><|im_end|>", "<|im_end|>") == "<|im_end|>"
    assert without_end("an answer<|im_end", "<|im_end|>") == "an answer"  # the stop string "end"
    assert without_end("an answer", "<|im_end|>") == without_end("an answer", "") == "an answer"


def test_state_of_torch_is_kept():
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    expected = torch.rand(2), random.random(), np.random.rand()
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    original, threads = torch.set_num_threads, torch.get_num_threads()
    with pytest.raises(KeyError), torch_state_kept():
        torch.manual_seed(9), random.seed(9), np.random.seed(9)
        torch.set_num_threads(threads + 1)
        torch.set_num_threads = lambda number: None
        raise KeyError
    assert torch.equal(torch.rand(2), expected[0])
    assert (random.random(), np.random.rand()) == expected[1:]
    assert torch.set_num_threads is original and torch.get_num_threads() == threads


def update(manifest, tensors):
    manifest.start()
    for name, shape, parameters in tensors:
        manifest.receive(name, shape)
        manifest.took([name], parameters)
    manifest.check_complete()
    manifest.finish()


Q, K, V = ("q", (2, 2), {"qkv"}), ("k", (1, 2), {"qkv"}), ("v", (3,), {"tower"})


@pytest.fixture
def manifest():
    return Manifest({"q": (2, 2), "k": (1, 2), "v": (3,)}, frozenset({"v"}), frozenset({"qkv", "tower"}))


def test_manifest_wants_frozen_tensors_first_and_after_a_failure(manifest):
    with pytest.raises(ValueError, match=r"lacks 1 of 3 tensors, among them \['v'\]"):
        update(manifest, [Q, K])
    update(manifest, [Q, K, V])
    update(manifest, [Q, K])
    with pytest.raises(ValueError, match=r"lacks 1 of 2 tensors, among them \['k'\]"):
        update(manifest, [Q, V])
    with pytest.raises(ValueError, match="lacks 1 of 3"):
        update(manifest, [Q, K])
    update(manifest, [K, V, Q])


def test_manifest_refuses_what_does_not_belong(manifest):
    with pytest.raises(ValueError, match=r"'x' of shape \[2\], which the model does not have"):
        update(manifest, [("x", (2,), {"qkv"})])
    with pytest.raises(ValueError, match=r"'q' of shape \[2\], expected \[2, 2\]"):
        update(manifest, [("q", (2,), {"qkv"})])
    with pytest.raises(ValueError, match="'q' twice"):
        update(manifest, [Q, Q])
    with pytest.raises(ValueError, match="No parameter of the engine's model took 'k'"):
        update(manifest, [Q, ("k", (1, 2), set())])
    with pytest.raises(ValueError, match=r"left 1 parameters untouched, among them \['tower'\]"):
        update(manifest, [Q, K, ("v", (3,), {"qkv"})])
    update(manifest, [Q, K, V])
    with pytest.raises(ValueError, match=r"left 1 parameters untouched, among them \['qkv'\]"):
        update(manifest, [("q", (2, 2), {"tower"}), ("k", (1, 2), {"tower"})])  # what they have to fill, not others


def test_an_engine_loads_no_weights_from_a_megatron_checkpoint(tmp_path):
    hf, checkpoint = tmp_path / "hf", tmp_path / "checkpoint"
    shutil.copytree(make_model(hf), checkpoint / "hf")
    (checkpoint / "metadata.json").write_text('{"sharded_backend": "torch_dist"}')
    options = {str(path): EngineOptions.from_config(Config(), ModelSource.open(path)) for path in (hf, checkpoint)}
    assert options[str(hf)].from_folder and not options[str(checkpoint)].from_folder
    assert options[str(hf)].frozen == options[str(checkpoint)].frozen
    with pytest.raises(ValueError, match=f"{checkpoint}. Build it with from_folder=False"):
        EngineOptions(ModelSource.open(checkpoint))

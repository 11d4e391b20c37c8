"""One start of two engines beside gloo, and everything that an engine promises about generation."""

import shutil
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from transformers import AddedToken, AutoTokenizer

from examples.digits.model import make_model
from megatron_eureka.bridge.source import ShardedSource
from megatron_eureka.engines import GenerateRequest, Rejection, SamplingOptions
from megatron_eureka.families.source import ModelSource
from megatron_eureka.rewards.format import TAGS
from tests.bridge.trainers import shards
from tests.engines.references import load_reference, make_prompt, noise, reference_logprobs, taken
from tests.ranks import run_ranks

IMAGES = noise(0), noise(1, (84, 112))
TOKENS = 48
END = 340  # <|im_end|>


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("engine") / "model", std=0.15)


@pytest.mark.slow
def test_two_engines(folder):
    prompt = make_prompt(folder, IMAGES, index=1)
    miscounted = replace(prompt, id="miscounted", token_ids=prompt.token_ids[:4] + prompt.token_ids[5:])
    missing = replace(prompt, id="missing")
    requests = [
        GenerateRequest(make_prompt(folder), (), (1, 2, 2)),
        GenerateRequest(miscounted, IMAGES, (1,)),
        GenerateRequest(prompt, IMAGES, (1, 2)),
        GenerateRequest(missing, IMAGES[:1], (1,)),
    ]
    first, second = run_ranks(2, engine_body, folder, requests, load_reference(folder), timeout=200)
    # Two engines of one rank each, given the same requests, draw the same tokens.
    assert first == second


def engine_body(rank, world, folder, requests, reference):
    from megatron_eureka.engines.colocated import ColocatedEngine, EngineOptions

    torch.manual_seed(5)
    before, set_num_threads = torch.get_rng_state(), torch.set_num_threads
    engine = ColocatedEngine(EngineOptions(ModelSource.open(folder), max_model_tokens=400))
    assert (engine.engine_index, engine.num_engines, engine.policy_version) == (rank, 2, 0)
    result = engine.generate(requests, SamplingOptions(max_tokens=TOKENS))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.set_num_threads is set_num_threads and torch.get_num_threads() == 1
    check_samples_and_refusals(engine, requests, result)
    check_logprobs(engine, requests, reference)
    check_greedy(engine, requests[2], reference)
    check_stopping(engine, requests[0])
    check_suppression(engine, requests[0], reference)
    check_failures(engine, requests[0])
    return result


@pytest.mark.slow
def test_tags_that_are_special_tokens_are_drawn_and_stay_in_the_text(tmp_path):
    folder = make_model(tmp_path / "model", std=0.05)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken(tag, special=True) for tag in TAGS], special_tokens=True)
    tokenizer.save_pretrained(folder)
    request = GenerateRequest(make_prompt(folder), (), tuple(range(96)))
    ((samples, stopped),) = run_ranks(1, tags_body, folder, request, timeout=200)
    tags = tokenizer.convert_tokens_to_ids(list(TAGS))
    drawn = sum(sample.token_ids.count(tag) for sample in samples for tag in tags)
    assert drawn > 10  # of some 9,000 tokens, each of the four one in some 350
    for sample in samples:
        body = sample.token_ids[:-1] if sample.token_ids[-1] == END else sample.token_ids
        whole = tokenizer.decode(body, skip_special_tokens=False)
        assert whole.startswith(sample.text)
        assert not whole.removeprefix(sample.text).strip("\ufffd")  # vLLM leaves out a character that was cut off
    ends = [sample.finish_reason == "stop" and sample.text.endswith("</answer>") for sample in stopped]
    assert any(ends) and all("</answer>" not in sample.text[:-1] for sample in stopped)


def tags_body(rank, world, folder, request):
    from megatron_eureka.engines.colocated import ColocatedEngine, EngineOptions

    engine = ColocatedEngine(EngineOptions(ModelSource.open(folder), max_model_tokens=400))
    (samples,) = engine.generate([request], SamplingOptions(max_tokens=2 * TOKENS))
    (stopped,) = engine.generate([request], SamplingOptions(max_tokens=2 * TOKENS, stop=("</answer>",)))
    return samples, stopped


def check_samples_and_refusals(engine, requests, result):
    text, miscounted, image, missing = result
    assert isinstance(miscounted, Rejection) and isinstance(missing, Rejection)
    placeholders = requests[2].prompt.token_ids.count(engine._info.image_token_id)
    assert miscounted.prompt_id == "miscounted"
    expected = len(requests[2].prompt.token_ids)
    assert f"saw {expected} prompt tokens ({placeholders} of" in miscounted.reason
    assert f"trainer has {expected - 1} ({placeholders - 1} of" in miscounted.reason
    assert missing == Rejection("missing", "2 image placeholders for 1 images")
    assert [len(text), len(image)] == [3, 2]
    assert text[1] == text[2]  # one seed, one response
    assert text[0].token_ids != text[1].token_ids != image[1].token_ids
    for sample in (*text, *image):
        assert sample.policy_version == 0
        assert len(sample.token_ids) == len(sample.engine_logprobs) <= TOKENS
        assert sample.truncated == (len(sample.token_ids) == TOKENS and sample.token_ids[-1] != END)
    reported = {}
    shuffled = [requests[3], requests[2], requests[1], requests[0]]
    missing, again_image, miscounted, again_text = engine.generate(
        shuffled, SamplingOptions(max_tokens=TOKENS), reported.__setitem__
    )
    assert isinstance(missing, Rejection) and isinstance(miscounted, Rejection)
    assert reported == {1: again_image, 3: again_text}  # by place; nothing of the refused ones
    again = [again_image, again_text]

    def tokens(samples):
        return [sample.token_ids for sample in samples]

    assert [tokens(samples) for samples in again] == [tokens(image), tokens(text)]  # whatever else is in the batch


def check_logprobs(engine, requests, reference):
    for temperature in (1.0, 0.6):
        sampling = SamplingOptions(temperature=temperature, max_tokens=TOKENS)
        for request in (requests[0], requests[2]):
            (samples,) = engine.generate([request], sampling)
            for sample in samples:
                ours = torch.tensor(sample.engine_logprobs)
                theirs = reference_logprobs(
                    reference, request.prompt, request.images, sample.token_ids, engine.suppressed, temperature
                )
                # float32 on both sides with other orders of summation; 1e-5 is usual
                torch.testing.assert_close(ours, taken(theirs, sample.token_ids), atol=1e-4, rtol=0)


def check_greedy(engine, request, reference):
    (samples,) = engine.generate([request], SamplingOptions(temperature=0.0, max_tokens=TOKENS))
    response = samples[0].token_ids
    assert samples[0].token_ids == samples[1].token_ids
    best = reference_logprobs(reference, request.prompt, request.images, response, engine.suppressed).argmax(-1)
    assert best.tolist() == list(response)


def check_stopping(engine, request):
    (samples,) = engine.generate([request], SamplingOptions(max_tokens=TOKENS))
    whole = samples[0]
    stop = whole.text[5:8]
    ((stopped, *_),) = engine.generate([request], SamplingOptions(max_tokens=TOKENS, stop=(stop,)))
    assert stopped.finish_reason == "stop" and not stopped.truncated
    assert stopped.text == whole.text[: whole.text.index(stop) + 3]
    assert stopped.token_ids == whole.token_ids[: len(stopped.token_ids)]
    many = [GenerateRequest(request.prompt, (), (seed,)) for seed in range(32)]
    others_run = []

    def note(place, samples):
        return others_run.append(engine._llm.llm_engine.has_unfinished_requests())

    samples = [sample for (sample,) in engine.generate(many, SamplingOptions(max_tokens=200), note)]
    assert len(others_run) == 32 and others_run[0] and not others_run[-1]  # each is told when it is done
    ended = [sample for sample in samples if sample.finish_reason == "stop"]
    assert ended  # 6,400 draws at one end token in some 350 tokens
    assert all(sample.token_ids[-1] == END and END not in sample.token_ids[:-1] for sample in ended)
    assert all("<|im_end|>" not in sample.text for sample in ended)


def check_suppression(engine, request, reference):
    many = GenerateRequest(request.prompt, (), tuple(range(32)))

    def drawn():
        return {t for s in engine.generate([many], SamplingOptions(max_tokens=64))[0] for t in s.token_ids}

    assert not drawn() & set(engine.suppressed)
    # The test can fail: without the mask the model would draw them.
    ((sample, *_),) = engine.generate([many], SamplingOptions(max_tokens=64))
    unmasked = reference_logprobs(reference, request.prompt, (), sample.token_ids, ()).exp()
    assert unmasked[:, list(engine.suppressed)].sum(-1).mean() > 0.02


def check_failures(engine, request):
    with pytest.raises(ValueError, match="400. Lower data.max_prompt_tokens"):
        engine.generate([request], SamplingOptions(max_tokens=400))
    enqueue = engine._llm.enqueue
    engine._llm.enqueue = lambda *args, **options: {}["gone"]
    with pytest.raises(
        RuntimeError, match=rf"Engine {engine.engine_index} \(rank {engine._rank}\) failed to gen.*gone"
    ):
        engine.generate([request], SamplingOptions(max_tokens=4))
    engine._llm.enqueue = enqueue


@pytest.mark.slow
def test_an_engine_that_starts_empty_sees_images_as_one_that_loaded_its_weights(tmp_path):
    """Its folder is the part of a Megatron checkpoint that it gets: without weights."""
    tied = make_model(tmp_path / "tied", tied=True, std=0.15, seed=1)
    shutil.copytree(tied, tmp_path / "hf", ignore=shutil.ignore_patterns("*.safetensors"))
    requests = [GenerateRequest(make_prompt(tied), (), (1,)), None]
    requests.append(GenerateRequest(make_prompt(tied, IMAGES, index=1), IMAGES, (1, 2)))
    run_ranks(1, start_empty, tied, tmp_path / "hf", requests, load_reference(tied), timeout=100)


def start_empty(rank, world, folder, without_weights, requests, reference):
    from megatron_eureka.engines.colocated import ColocatedEngine, EngineOptions

    engine = ColocatedEngine(EngineOptions(ModelSource.open(without_weights), max_model_tokens=400, from_folder=False))
    info, parameters = shards(folder, 0, 1, 1)
    engine.update_weights(ShardedSource(parameters, info))
    check_logprobs(engine, requests, reference)


@pytest.mark.slow
def test_engine_needs_a_process_group(folder):
    run_ranks(1, without_group, folder)


def without_group(rank, world, folder):
    from megatron_eureka.engines.colocated import ColocatedEngine, EngineOptions

    with pytest.raises(ValueError, match="rollout.tp 2 does not divide the 1 ranks"):
        ColocatedEngine(EngineOptions(ModelSource.open(folder), tp=2))
    dist.destroy_process_group()
    with pytest.raises(ValueError, match="initialise the process group first"):
        ColocatedEngine(EngineOptions(ModelSource.open(folder)))


@pytest.mark.slow
def test_limits_of_an_engine_change_nothing_in_what_is_drawn(folder):
    """More prompt tokens than a batch holds, more sequences than run at once, a KV cache that holds a few of them."""
    texts = [f"{i}. " + "What is the sum of the two digits? " * (10 + i % 7) for i in range(40)]
    prompts = [make_prompt(folder, (noise(i, (84, 112)),), text, i) for i, text in enumerate(texts)]
    requests = [GenerateRequest(p, (noise(i, (84, 112)),), (7 * i, 7 * i + 1)) for i, p in enumerate(prompts)]
    ((cut, preempted, wide),) = run_ranks(1, generate_within, folder, requests, 64, timeout=150)
    assert cut > 0 == preempted
    ((cut, preempted, narrow),) = run_ranks(1, generate_within, folder, requests, 5, timeout=150)
    assert preempted > 0
    assert narrow == wide


def generate_within(rank, world, folder, requests, kv_cache_mib):
    """How often a draw was thrown away after a piece of a prompt, how often a sequence was put back, and the tokens."""
    from vllm.v1.core.sched.scheduler import Scheduler

    from megatron_eureka.engines.colocated import ColocatedEngine, EngineOptions
    from megatron_eureka.engines.cpu_worker import RewindingModelRunner
    from megatron_eureka.engines.options import KV_BLOCK_TOKENS

    def options(mib, **changes):
        return EngineOptions(ModelSource.open(folder), max_model_tokens=2048, kv_cache_bytes=mib << 20, **changes)

    def tokens(samples):
        return [sample.token_ids for sample in samples]

    sampling = SamplingOptions(max_tokens=200)
    with pytest.raises(ValueError, match="2048 tokens .* needs 4 MiB of KV cache; rollout.kv_cache_mib is 3. Raise it"):
        ColocatedEngine(options(3))
    engine = ColocatedEngine(options(kv_cache_mib, max_num_seqs=64))
    config = engine._llm.llm_engine.vllm_config
    assert config.cache_config.block_size <= KV_BLOCK_TOKENS
    assert sum(request.prompt.num_tokens for request in requests) > config.scheduler_config.max_num_batched_tokens
    cut, preempted = [], []
    unfinished, preempt = RewindingModelRunner._unfinished, Scheduler._preempt_request
    RewindingModelRunner._unfinished = lambda self: cut.extend(unfinished(self)) or unfinished(self)
    Scheduler._preempt_request = lambda *args, **options: preempted.append(1) or preempt(*args, **options)
    together = [tokens(samples) for samples in engine.generate(requests, sampling)]
    counts = len(cut), len(preempted)
    for request, drawn in zip(requests[:8], together, strict=False):
        assert tokens(engine.generate([request], sampling)[0]) == drawn
    return *counts, together

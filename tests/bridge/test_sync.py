"""The whole way from a sharded trainer into running engines, against transformers and against fresh engines."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from examples.digits.model import make_model
from megatron_eureka.bridge import ShardedSource
from megatron_eureka.checkpoints import export_hf, load_hf, save_hf
from megatron_eureka.engines import GenerateRequest, SamplingOptions
from megatron_eureka.families.source import ModelSource
from megatron_eureka.weights import hf_tensors
from tests.bridge.trainers import grid, shards
from tests.bridge.worker_state import worker_state
from tests.engines.references import QUESTION, load_reference, make_prompt, noise, reference_logprobs, taken
from tests.ranks import run_ranks

SEEN, NEW = noise(0), noise(1)
LONG = QUESTION * 16  # more than a block of the KV cache (128 tokens on CPU), or nothing of it would be reused
SAMPLING = SamplingOptions(max_tokens=24)


@dataclass(frozen=True)
class Case:
    """One start of engines and what happens to them."""

    start: Path  # what the engines load
    first: Path  # every tensor differs from `start`
    second: Path  # the language model differs from `first`, the tower is the same
    references: dict
    trainer_tp: int
    trainer_pp: int
    engine_tp: int
    requests: tuple[GenerateRequest, ...]  # text, the image that the engines see at the start, a new one
    export: Path


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Three checkpoints each, untied and tied, with transformers' models of them."""
    result = {}
    for tied in (False, True):
        root = tmp_path_factory.mktemp("tied" if tied else "untied")
        start, first, other = (make_model(root / f"{n}", std=0.15, tied=tied, seed=n) for n in range(3))
        tower = {name: t for name, t in load_file(first / "model.safetensors").items() if name.startswith("visual.")}
        second = root / "second"
        save_hf(second, (load_file(other / "model.safetensors") | tower).items(), other)
        folders = start, first, second
        result[tied] = folders, {folder: load_reference(folder) for folder in folders}
    return result


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tied", "trainer_tp", "trainer_pp", "engine_tp"),
    [(False, 2, 1, 1), (True, 1, 2, 1), (False, 1, 2, 2), (True, 2, 1, 2)],
)
def test_engines_follow_the_trainer(checkpoints, tmp_path, tied, trainer_tp, trainer_pp, engine_tp):
    folders, references = checkpoints[tied]
    texts = LONG, QUESTION, QUESTION
    requests = tuple(
        GenerateRequest(make_prompt(folders[0], images, text, index), images, (1, 2))
        for index, (images, text) in enumerate(zip([(), (SEEN,), (NEW,)], texts, strict=True))
    )
    assert requests[0].prompt.num_tokens > 128 + 16
    case = Case(*folders, references, trainer_tp, trainer_pp, engine_tp, requests, tmp_path / "export")
    updated = run_ranks(2, follow, case, timeout=200)
    fresh = run_ranks(2, start_fresh, case, timeout=200)
    for rank in range(2):
        assert updated[rank].keys() == fresh[rank].keys()
        for name, tensor in fresh[rank].items():
            assert torch.equal(updated[rank][name], tensor), f"rank {rank}: {name}"


def follow(rank, world, case):
    from megatron_eureka.engines.colocated import ColocatedEngine, EngineOptions

    tp_group, pp_group = grid(rank, case.trainer_tp, case.trainer_pp)
    info, parameters = shards(case.first, rank, case.trainer_tp, case.trainer_pp)
    tower = [name for name in hf_tensors(info) if name.startswith("visual.")]
    options = EngineOptions(ModelSource.open(case.start), tp=case.engine_tp, max_model_tokens=400, frozen=tuple(tower))
    engine = ColocatedEngine(options)
    check_shared_memory(engine)
    source = Recorded(
        parameters, info, tp_group=tp_group, pp_group=pp_group, bucket_bytes=100_000, frozen=frozenset(tower)
    )
    check(engine, case, case.start, case.requests[:2], version=0)
    engine.update_weights(source)
    assert set(source.names) == set(hf_tensors(info))
    check(engine, case, case.first, case.requests, version=1, moved_from=case.start)
    load_hf(case.second, parameters, info, rank % case.trainer_tp, case.trainer_tp)
    engine.update_weights(source)
    assert set(source.names) == set(hf_tensors(info)) - set(tower)
    check(engine, case, case.second, case.requests, version=2, moved_from=case.first)
    check_failing_updates(engine, case, source, rank)
    engine.update_weights(source, version=7)
    assert set(source.names) == set(hf_tensors(info))  # nothing is taken for granted after a failure
    check(engine, case, case.second, case.requests, version=7)
    export_hf(source.stream(), case.export, case.start, source.num_tensors, rank == 0)
    return worker_state(engine)


def check_shared_memory(engine):
    """Nothing is left in /dev/shm that a killed job would leave behind, or that another job could stumble over."""
    from megatron_eureka.engines import plugin

    job = engine._llm.llm_engine.vllm_config.additional_config[plugin.JOB_KEY]
    assert not list(Path("/dev/shm").glob(f"*{job}*"))


def start_fresh(rank, world, case):
    from megatron_eureka.engines.colocated import ColocatedEngine, EngineOptions

    return worker_state(
        ColocatedEngine(EngineOptions(ModelSource.open(case.export), tp=case.engine_tp, max_model_tokens=400))
    )


def check(engine, case, folder, requests, version, moved_from=None):
    """The engine's log-probs are those of transformers with the folder's weights."""
    results = engine.generate(requests, SAMPLING)
    for request, samples in zip(requests, results, strict=True):
        for sample in samples:
            assert sample.policy_version == version
            about = request.prompt, request.images, sample.token_ids, engine.suppressed
            theirs = taken(reference_logprobs(case.references[folder], *about), sample.token_ids)
            ours = torch.tensor(sample.engine_logprobs)
            # float32 with other orders of summation
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
            if moved_from:
                old = taken(reference_logprobs(case.references[moved_from], *about), sample.token_ids)
                assert (ours - old).abs().max() > 1e-2


class Recorded(ShardedSource):
    """Remembers what the last stream held, and can be told to go wrong on one rank."""

    spoil = staticmethod(lambda name, tensor: (name, tensor))

    def stream(self, *, include_frozen=True):
        self.names = []
        for name, tensor in super().stream(include_frozen=include_frozen):
            self.names.append(name)
            yield self.spoil(name, tensor)


KEY = "model.layers.1.self_attn.k_proj.weight"


def wrong_shape(name, tensor):
    return (name, tensor[1:]) if name == KEY else (name, tensor)


def unknown_name(name, tensor):
    return ("model.layers.1.None", tensor) if name == KEY else (name, tensor)


def check_failing_updates(engine, case, source, rank):
    """Rank 1 goes wrong half-way through a fused layer: both ranks hear of it, and neither serves what it has."""
    for spoil, message in (
        (wrong_shape, r"rank 1: .*k_proj.weight' of shape"),
        (unknown_name, "rank 1: .*layers.1.None"),
    ):
        source.spoil = spoil if rank == 1 else Recorded.spoil
        with pytest.raises(RuntimeError, match=message):
            engine.update_weights(source)
        assert len(source.names) > 20  # the stream was exhausted
        with pytest.raises(RuntimeError, match=rf"Engine {engine.engine_index} \(rank {rank}\) has no usable weights"):
            engine.generate(case.requests, SAMPLING)
    source.spoil = Recorded.spoil
    dist.barrier()


@pytest.mark.slow
def test_engine_that_starts_empty_waits_for_weights(checkpoints):
    (_, first, _), references = checkpoints[False]
    request = GenerateRequest(make_prompt(first), (), (1,))
    case = Case(first, first, first, references, 1, 1, 1, (request,), first)
    run_ranks(1, start_empty, case, timeout=100)


def start_empty(rank, world, case):
    from megatron_eureka.engines.colocated import ColocatedEngine, EngineOptions

    engine = ColocatedEngine(EngineOptions(ModelSource.open(case.first), max_model_tokens=400, from_folder=False))
    with pytest.raises(RuntimeError, match="has no usable weights"):
        engine.generate(case.requests, SAMPLING)
    info, parameters = shards(case.first, 0, 1, 1)
    engine.update_weights(ShardedSource(parameters, info))
    check(engine, case, case.first, case.requests, version=1)
    # An update that lacks a tensor is no update.
    lacking = ShardedSource(parameters, info, frozen=["language_model.decoder.final_layernorm.weight"])
    with pytest.raises(RuntimeError, match=r"rank 0: .*lacks 1 of 69 tensors, among them \['model.norm.weight'\]"):
        engine.update_weights(lacking)
    with pytest.raises(RuntimeError, match="has no usable weights"):
        engine.generate(case.requests, SAMPLING)


@pytest.mark.slow
def test_bf16_engine_of_an_fp32_trainer_equals_a_fresh_one(checkpoints):
    (start, first, _), _ = checkpoints[True]
    updated = run_ranks(1, bf16_state, start, first, timeout=100)[0]
    fresh = run_ranks(1, bf16_state, first, None, timeout=100)[0]
    assert [name for name in fresh if not torch.equal(updated[name], fresh[name])] == []


def bf16_state(rank, world, folder, update_from):
    from megatron_eureka.engines.colocated import ColocatedEngine, EngineOptions

    engine = ColocatedEngine(EngineOptions(ModelSource.open(folder), dtype="bfloat16", max_model_tokens=256))
    if update_from:
        info, parameters = shards(update_from, 0, 1, 1)
        engine.update_weights(ShardedSource(parameters, info))
    return worker_state(engine)

"""Plans of checkpoints of the published models against Megatron-Core's own, without allocating a weight."""

import json
from collections import defaultdict
from itertools import product
from operator import attrgetter

import pytest
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor, apply_factories
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from megatron_eureka.checkpoints.checkpoint_plan import MAX_BOX_BYTES, plan_checkpoint
from megatron_eureka.checkpoints.stored import pipeline_stage, stored_rules, stored_tensor
from megatron_eureka.config.checks import check_model_layout
from megatron_eureka.config.model_info import ModelInfo
from megatron_eureka.config.schema import Parallel
from megatron_eureka.families import read_sizes
from megatron_eureka.families.source import ModelSource
from megatron_eureka.model.build import build_model, named_weights
from megatron_eureka.model.spec import transformer_config
from megatron_eureka.parallel import cpu_shim, groups
from megatron_eureka.parallel.layout import Layout
from megatron_eureka.weights import hf_tensors, rules_by_name, shard_shape
from tests.model.reference import config_for
from tests.ranks import run_ranks
from tests.weights.test_table import PUBLISHED, published_config

TP_SIZES = {"3B": (1, 2), "7B": (1, 2, 4), "32B": (1, 2, 4, 8), "72B": (1, 2, 4, 8)}  # those that divide the kv heads
MODELS_AND_TP = [(name, tp) for name, sizes in TP_SIZES.items() for tp in sizes]


def info_of(name: str, **changes) -> ModelInfo:
    return read_sizes(published_config(name) | changes)


def divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


def pipelines(layers: int) -> list[tuple[int, int]]:
    """Every legal pp x vpp."""
    return [(pp, vpp) for pp in divisors(layers) for vpp in divisors(layers // pp) if vpp == 1 or pp > 1]


def bf16(info: ModelInfo) -> dict[str, torch.dtype]:
    return {rule.name: torch.bfloat16 for rule in stored_rules(info)}


# --- which layouts there are ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_legal_layouts_are_those_that_the_model_allows(name):
    info, legal = info_of(name), set()
    for tp, pp, vpp in product(range(1, 17), *[range(1, info.num_layers + 1)] * 2):
        try:
            check_model_layout(Parallel(tp=tp, pp=pp, vpp=vpp), info)
        except ValueError:
            continue
        legal.add((tp, pp, vpp))
    assert legal == {(tp, *pipeline) for tp in TP_SIZES[name] for pipeline in pipelines(info.num_layers)}


# --- stages: they depend on pp and vpp alone -----------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_layers_lie_on_megatron_cores_stages(name):
    info = info_of(name)
    rules = {stored_tensor(rule).layer: rule for rule in stored_rules(info)}
    for pp, vpp in pipelines(info.num_layers):
        config = config_for("", Layout(pp=pp, vpp=vpp))
        core = transformer_config(info, config.parallel, config.precision)
        ours = [pipeline_stage(rules[layer], info.num_layers, pp, vpp) for layer in range(info.num_layers)]
        theirs = [-1] * info.num_layers
        per_chunk = info.num_layers // (pp * vpp)
        for stage, chunk in product(range(pp), range(vpp)):
            first = get_transformer_layer_offset(core, chunk if vpp > 1 else None, stage)
            theirs[first : first + per_chunk] = [stage] * per_chunk
        assert ours == theirs, (pp, vpp)


# --- shards: they depend on tp alone -------------------------------------------------------------------------------


def on_fake_tensors(rank, world, folder, tp, tp_rank):
    """What Megatron-Core builds and would load on one of `tp` ranks: shapes by name, boxes by key, keys of objects."""
    dist.destroy_process_group()
    dist.init_process_group("fake", store=FakeStore(), rank=tp_rank, world_size=tp)
    cpu_shim.install()
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=tp, create_gloo_process_groups=False)
    process_groups = groups.start(Layout(tp=tp), seed=0)
    torch.nn.Module.to = lambda self, *_, **__: self  # all is on the CPU, and fake parameters cannot be moved
    with FakeTensorMode(), cpu_shim.cuda_method_stays():
        config = config_for(str(folder), Layout(tp=tp))
        source = ModelSource.open(folder)
        chunks = build_model(source, config.model, config.parallel, config.precision, process_groups)
        state = chunks[0].sharded_state_dict()
        apply_factories(state)
    items = list(nested_values(state))
    tensors = [item for item in items if isinstance(item, ShardedTensor)]
    boxes = {(t.key, tuple(t.global_shape), tuple(t.global_offset), tuple(t.local_shape)) for t in tensors}
    objects = {item.unique_key for item in items if isinstance(item, ShardedObject)}
    return {name: tuple(p.shape) for name, p in named_weights(chunks).items()}, boxes, objects


@pytest.mark.parametrize(("name", "tp"), MODELS_AND_TP)
def test_shards_are_megatron_cores(name, tp, tmp_path):
    """Names and shapes of parameters, and the boxes that ranks load, which are the content of their files."""
    info = info_of(name, num_hidden_layers=2)  # one layer is like another
    (tmp_path / "config.json").write_text(json.dumps(published_config(name) | {"num_hidden_layers": 2}))
    plan, rules = plan_checkpoint(info, bf16(info), tp=tp), rules_by_name(info)
    for tp_rank in {0, tp - 1}:
        shapes, boxes, objects = run_ranks(1, on_fake_tensors, tmp_path, tp, tp_rank)[0]
        assert shapes == {name: shard_shape(rules[name], tp) for name in shapes}
        held = {rules[name].name for name in shapes}
        assert held == {rule.name for rule in stored_rules(info)}
        assert objects <= plan.objects.keys()
        assert {(key, shape) for key, shape, _, _ in boxes} == set(plan.shapes.items())
        expected = defaultdict(int)
        for key, shape, offset, size in boxes:
            size = (1,) * (len(shape) - len(size)) + size  # without the dim of layers, there
            expected[key, offset, size] = torch.Size(size).numel()
        found = defaultdict(int)
        for stored in plan.boxes:
            inside = [box for box in expected if box[0] == stored.key and contains(box, stored)]
            assert len(inside) <= 1
            if stored.file == f"__{tp_rank}_0.distcp":
                assert inside, f"{stored} is not what rank {tp_rank} reads"
            for box in inside:
                found[box] += torch.Size(stored.sizes).numel()
        assert found == expected


def contains(box, stored) -> bool:
    _, starts, sizes = box
    return all(
        start <= offset and offset + length <= start + size
        for start, size, offset, length in zip(starts, sizes, stored.starts, stored.sizes, strict=True)
    )


# --- whole plans ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tp"),
    [pytest.param(name, tp, marks=[] if name == "3B" else [pytest.mark.slow]) for name, tp in MODELS_AND_TP],
)
def test_plans_of_whole_models_are_complete(name, tp):
    """Each element of each tensor lies in one box, made of as many elements; no box is large, no file has gaps."""
    info = info_of(name)
    check_tensors(plan_checkpoint(info, bf16(info), tp=tp), info, MAX_BOX_BYTES)  # tp alone decides on the boxes
    for pp, vpp in pipelines(info.num_layers):  # and these on their files; large boxes make it quick
        plan = plan_checkpoint(info, bf16(info), tp=tp, pp=pp, vpp=vpp, max_box_bytes=1 << 40)
        assert len(plan.file_bytes) == tp * pp
        check_tensors(plan, info, 1 << 40)
        check_files(plan)


def check_tensors(plan, info, max_bytes):
    volumes, boxes = defaultdict(int), set()
    for transfer in (transfer for rule in plan.transfers for transfer in rule):
        read = sum(cut.size * torch.Size(cut.source.shape[1:]).numel() for cut in transfer.cuts)
        assert read == sum(torch.Size(box.sizes).numel() for box in transfer.boxes)
        for box in transfer.boxes:
            assert (box.key, box.starts) not in boxes
            boxes.add((box.key, box.starts))
            volumes[box.key] += torch.Size(box.sizes).numel()
            assert box.frame.num_bytes <= max_bytes
            whole = zip(box.starts, box.sizes, plan.shapes[box.key], strict=True)
            assert all(offset + size <= length for offset, size, length in whole)
    assert volumes == {key: torch.Size(shape).numel() for key, shape in plan.shapes.items()}
    assert sum(volumes.values()) == sum(torch.Size(tensor.shape).numel() for tensor in hf_tensors(info).values())


def check_files(plan):
    ends = dict.fromkeys(plan.file_bytes, 0)
    for box in sorted(plan.boxes, key=attrgetter("offset")):
        assert box.offset == ends[box.file]
        ends[box.file] += box.frame.size
    extent = next(iter(plan.objects.values()))
    file = extent.file.name
    assert extent.offset == ends[file]
    assert plan.file_bytes == ends | {file: extent.offset + extent.num_bytes}

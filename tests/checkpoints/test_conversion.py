"""Converted checkpoints in real models: Megatron-Core's loader, both specs, every layout, transformers' logits."""

import itertools
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from examples.digits.model import make_model
from megatron_eureka.checkpoints import hf_to_megatron, load_hf, megatron_to_hf, stored, verify
from megatron_eureka.evaluate.compare_logits import compare_logits
from megatron_eureka.families.source import ModelSource
from megatron_eureka.parallel.layout import Layout
from tests.checkpoints.models import differing, save
from tests.model.reference import hf_reference, merge, run_ours
from tests.ranks import run_ranks

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"std": 0.15, "hidden_size": 256, "num_heads": 8, "num_kv_heads": 4, "num_layers": 8}
LAYOUTS = [
    Layout(tp=tp, pp=pp, vpp=vpp) for tp in (1, 2, 4) for pp in (1, 2, 4) for vpp in (1, 2) if vpp == 1 or pp > 1
]


def NAME(layout):
    return f"tp{layout.tp} pp{layout.pp} vpp{layout.vpp}"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Hugging Face folders with converted checkpoints beside them, cut for one layout."""
    folder = tmp_path_factory.mktemp("converted")
    made = {}
    for seed, tied in enumerate((True, False)):
        hf = make_model(folder / f"hf-{seed}", tied=tied, seed=seed, **SIZES)
        hf_to_megatron(hf, folder / f"megatron-{seed}", tp=2, pp=2, vpp=2)
        made["tied" if tied else "untied"] = (hf, folder / f"megatron-{seed}")
    return made


def load_all(rank, world, models, layout):
    """Names that differ after loading, of tied and untied models under both specs."""
    return [
        name
        for te, (hf, folder) in itertools.product((False, True), models.values())  # once on, te's names stay on
        for name in differing(rank, world, hf, layout, folder, te=te)[0]
    ]


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS, ids=NAME)
def test_megatron_core_loads_it_under_every_layout_and_spec(models, layout):
    """Into parameters that were filled with NaN, and equal to what `load_hf` reads from the Hugging Face folder."""
    results = run_ranks(layout.world_size, load_all, models, layout, timeout=200)
    assert results == [[]] * layout.world_size


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_logits_are_those_of_transformers(models, kind):
    hf, folder = models[kind]
    expected = hf_reference(str(hf))["logits"]
    ours = merge(run_ranks(4, run_ours, str(folder), Layout(tp=2, pp=2), {}))["logits"]
    for one, other in zip(ours, expected, strict=True):
        # Logits of about ten units in float32, whose sums two ranks build in another order: 2e-4 are 200 roundings
        # of the largest, and the smallest of the mistakes below moves logits by tenths.
        torch.testing.assert_close(one, other, rtol=0, atol=2e-4)


@pytest.mark.slow
def test_a_checkpoint_that_megatron_core_wrote_converts_back(models, tmp_path):
    """Megatron to Megatron at another layout is a save by one and a load by another; here through Hugging Face too."""
    hf, _ = models["untied"]
    for number, layout in enumerate((Layout(), Layout(tp=4), Layout(tp=2, pp=2, vpp=2))):
        checkpoint, back = tmp_path / f"checkpoint-{number}", tmp_path / f"hf-{number}"
        for one_by_one in (False, True):
            folder = checkpoint.with_name(f"{checkpoint.name}-{one_by_one}")
            run_ranks(layout.world_size, save_with, hf, layout, folder, {"one_by_one": one_by_one, "te": True})
            assert verify(hf, folder).equal
            megatron_to_hf(folder, back, overwrite=True)
            assert verify(back, folder).equal
            assert same_files(hf, back)


def save_with(rank, world, hf, layout, folder, options):
    save(rank, world, hf, layout, folder, **options)


def same_files(one: Path, other: Path) -> bool:
    from safetensors.torch import load_file

    one, other = (load_file(folder / "model.safetensors") for folder in (one, other))
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def stock_model(rank, world, hf, folder, program):
    """Run the page's program with a GPTModel of Megatron-Core alone -> names that differ from the source."""
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.models.gpt.gpt_model import GPTModel

    from megatron_eureka.model.spec import transformer_config
    from megatron_eureka.parallel import cpu_shim, groups
    from tests.model.reference import config_for

    info, layout = ModelSource.open(hf).info, Layout(tp=2)
    config = config_for(str(hf), layout)
    groups.start(layout, seed=1, timeout_s=60)
    with cpu_shim.cuda_method_stays():
        gpt_model = GPTModel(
            transformer_config(info, config.parallel, config.precision),
            get_gpt_layer_local_spec(normalization="RMSNorm"),
            info.vocab_size,
            info.max_positions,
            share_embeddings_and_output_weights=info.tied,
            position_embedding_type="mrope",
        )
        for parameter in gpt_model.parameters():
            torch.nn.init.constant_(parameter, torch.nan)
        exec(program.replace("checkpoints/qwen", str(folder)), {"gpt_model": gpt_model})
    loaded = {f"language_model.{name}": parameter.detach() for name, parameter in gpt_model.named_parameters()}
    expected = {name: torch.full_like(tensor, torch.nan) for name, tensor in loaded.items()}
    load_hf(hf, expected, info, rank, 2)
    return [name for name in expected if not torch.equal(loaded[name], expected[name])], len(expected)


def test_megatron_core_alone_reads_the_language_model(models):
    page = (ROOT / "docs" / "checkpoints.md").read_text("utf-8")
    program = next(text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "gpt_model" in text)
    hf, folder = models["untied"]
    assert run_ranks(2, stock_model, hf, folder, program) == [([], 7 * 8 + 3)] * 2


# --- mutations -----------------------------------------------------------------------------------------------------


def swap(rules, one, other):
    """Two parameters of one shape, each made of the other's tensors."""
    sources = {rule.name: rule.sources for rule in rules if rule.name in (one, other)}
    assert len(sources) == 2
    exchanged = {one: sources[other], other: sources[one]}
    return tuple(replace(rule, sources=exchanged.get(rule.name, rule.sources)) for rule in rules)


def change(rules, name, **fields):
    """One rule with other fields; a function of the rule makes a field."""
    assert sum(rule.name == name for rule in rules) == 1

    def make(rule):
        return {key: value(rule) if callable(value) else value for key, value in fields.items()}

    return tuple(replace(rule, **make(rule)) if rule.name == name else rule for rule in rules)


def order(*places):
    return lambda rule: tuple(rule.sources[place] for place in places)


LAYER = "language_model.decoder.layers.2."
QKV, FC1 = f"{LAYER}self_attention.linear_qkv", f"{LAYER}mlp.linear_fc1"
PROJ, FC2 = f"{LAYER}self_attention.linear_proj", f"{LAYER}mlp.linear_fc2"
EMBEDDING, HEAD = "language_model.embedding.word_embeddings.weight", "language_model.output_layer.weight"
MUTATIONS = {
    "q and k swapped": lambda rules: change(rules, f"{QKV}.weight", sources=order(1, 0, 2)),
    "k and v swapped": lambda rules: change(rules, f"{QKV}.weight", sources=order(0, 2, 1)),
    "bias of k and v swapped": lambda rules: change(rules, f"{QKV}.bias", sources=order(0, 2, 1)),
    "qkv not interleaved by group": lambda rules: change(rules, f"{QKV}.weight", groups=1),
    "qkv bias not interleaved by group": lambda rules: change(rules, f"{QKV}.bias", groups=1),
    "half as many groups": lambda rules: change(rules, f"{QKV}.weight", groups=2),
    "groups in the wrong order": "reversed groups",
    "gate and up swapped": lambda rules: change(rules, f"{FC1}.weight", sources=order(1, 0)),
    "gate and up interleaved": lambda rules: change(rules, f"{FC1}.weight", groups=4),
    "missed bias": lambda rules: tuple(rule for rule in rules if rule.name != f"{QKV}.bias"),
    "missed tower bias": lambda rules: tuple(rule for rule in rules if rule.name != "visual.blocks.0.attn.qkv.bias"),
    "norms of a layer swapped": lambda rules: swap(rules, f"{QKV}.layer_norm_weight", f"{FC1}.layer_norm_weight"),
    "final norm from a layer": lambda rules: swap(
        rules, "language_model.decoder.final_layernorm.weight", f"{QKV}.layer_norm_weight"
    ),
    "layers swapped": lambda rules: swap(rules, f"{PROJ}.weight", f"{PROJ}.weight".replace("layers.2", "layers.1")),
    "o and down swapped": lambda rules: swap(rules, f"{PROJ}.weight", f"{FC2}.weight"),
    "embedding and head swapped": lambda rules: swap(rules, EMBEDDING, HEAD),
    "tower norms swapped": lambda rules: swap(rules, "visual.blocks.1.norm1.weight", "visual.blocks.1.norm2.weight"),
    "tower gate and up swapped": lambda rules: swap(
        rules, "visual.blocks.0.mlp.gate_proj.weight", "visual.blocks.0.mlp.up_proj.weight"
    ),
    "merger matrices swapped": lambda rules: swap(rules, "visual.merger.mlp.0.weight", "visual.merger.mlp.2.weight"),
}


def reversed_groups(rule, tp_rank, tp_size):
    """The cuts of a rank, its last group first."""
    right = original_cuts(rule, tp_rank, tp_size)
    if rule.name != f"{QKV}.weight":
        return right
    last_first, offset = [], 0
    for cut in (cut for group in reversed(range(0, len(right), 3)) for cut in right[group : group + 3]):
        last_first.append(replace(cut, offset=offset))
        offset += cut.size
    return tuple(last_first)


original_cuts, original_table = stored.cuts, stored.table


def outcomes(rank, world, hf, folder):
    """How the wrong conversions end: a refusal, or (verify's answer with the right table, how far logits move)."""
    dist.destroy_process_group()  # the comparison has one of its own
    results = {}
    for number, (name, mutate) in enumerate([("none", lambda rules: rules), *MUTATIONS.items()]):
        if mutate == "reversed groups":
            stored.cuts = reversed_groups
        else:
            stored.table = lambda info, mutate=mutate: mutate(original_table(info))
        target = folder / str(number)
        try:
            hf_to_megatron(hf, target)
            stored.table, stored.cuts = original_table, original_cuts
            (target / "megatron_eureka.json").unlink()  # its hash would have the loader refuse the wrong ones
            results[name] = (verify(hf, target).equal, compare_logits(hf, target).largest_difference)
        except (ValueError, AssertionError) as error:
            results[name] = str(error)
        stored.table, stored.cuts = original_table, original_cuts
    return results


@pytest.fixture(scope="module")
def wrong_conversions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mutations")
    # the tower's last two matrices have one shape here, and so do o_proj and down_proj, embedding and head
    hf = make_model(folder / "hf", **SIZES)
    return run_ranks(1, outcomes, hf, folder, timeout=300)[0]


@pytest.mark.slow
def test_the_right_table_passes_both_checks(wrong_conversions):
    assert wrong_conversions["none"] == (True, pytest.approx(0, abs=2e-4))


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_any_wrong_rule_is_caught(wrong_conversions, mutation):
    """By the bits, and by the logits, which know nothing of the table; a missed parameter by the conversion itself."""
    if mutation.startswith("missed"):
        missed = "visual.blocks.0.attn.qkv.bias" if "tower" in mutation else "model.layers.2.self_attn.k_proj.bias"
        assert wrong_conversions[mutation].startswith(f"no rule stores ['{missed}'")
    else:
        equal, moved = wrong_conversions[mutation]
        assert not equal
        assert moved > 0.1

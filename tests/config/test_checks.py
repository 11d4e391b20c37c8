"""Cross-checks: each names both options and a way out; all problems come at once; shipped files pass."""

from dataclasses import replace
from pathlib import Path

import pytest

from megatron_eureka.config.checks import check, doubts
from megatron_eureka.config.load import load_config
from megatron_eureka.families import PUBLISHED
from megatron_eureka.families.source import find_source

ROOT = Path(__file__).parents[2]
SEVEN = PUBLISHED["Qwen/Qwen2.5-VL-7B-Instruct"]


SIZES, RECIPES = sorted(ROOT.glob("configs/qwen2_5_vl_*.yaml")), sorted(ROOT.glob("configs/recipe/*.yaml"))


def seven(*overrides):
    return load_config(ROOT / "configs/qwen2_5_vl_7b_1node.yaml", overrides)


@pytest.mark.parametrize("file", SIZES, ids=lambda file: file.stem)
def test_shipped_files_pass(file):
    config = load_config(file)
    check(config, find_source(config.model.path).info, config.launch.ranks * config.launch.nodes)


@pytest.mark.parametrize("size", SIZES, ids=lambda file: file.stem)
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda file: file.stem)
def test_recipes_go_with_every_size_in_either_order(recipe, size):
    sized = load_config(size)
    for files in ((size, recipe), (recipe, size)):
        config = load_config(files[0], [str(files[1])])
        assert config.algorithm == load_config(recipe).algorithm
        assert (config.model, config.parallel, config.launch) == (sized.model, sized.parallel, sized.launch)
        check(config, find_source(config.model.path).info, config.launch.ranks * config.launch.nodes)


def test_the_7b_file_is_the_published_recipe():
    config = seven()
    assert (config.rollout.prompts_per_step, config.rollout.samples_per_prompt) == (128, 8)
    assert (config.rollout.temperature, config.rollout.top_p, config.rollout.top_k) == (1.0, 1.0, -1)
    assert config.data.max_prompt_tokens + config.rollout.max_response_tokens == 7096
    assert (config.data.min_pixels, config.data.max_pixels) == (4 * 28 * 28, 640 * 28 * 28)
    assert 128 * 8 / config.train.samples_per_update == 8
    optimizer = config.optimizer
    assert (optimizer.lr, optimizer.beta1, optimizer.beta2, optimizer.weight_decay) == (1e-6, 0.9, 0.95, 0.0)
    assert (optimizer.schedule, optimizer.warmup_fraction, optimizer.min_lr_ratio) == ("cosine", 0.03, 0.1)
    assert (config.algorithm.filter.lower, config.algorithm.filter.upper) == (0.1, 0.9)
    assert config.model.freeze_vision and config.algorithm.advantage == "grpo"


def test_digit_files_pass_with_the_demo_model():
    tiny = replace(SEVEN, hidden_size=128, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=32, ffn_size=256)
    tiny = replace(tiny, vocab_size=384, max_positions=2048, vision=replace(SEVEN.vision, num_heads=4))
    grpo = load_config(ROOT / "configs/digits/grpo.yaml")
    check(grpo, tiny, grpo.launch.ranks)
    sft = load_config(ROOT / "configs/digits/sft.yaml")
    check(sft, tiny, sft.launch.ranks, task="sft")
    with pytest.raises(ValueError, match="freeze_vision = false with GRPO"):
        check(load_config(ROOT / "configs/digits/grpo.yaml", ["model.freeze_vision=false"]), tiny, 2)


def test_digit_files_hold_the_settings_that_worked():
    grpo, sft = (load_config(ROOT / f"configs/digits/{name}.yaml") for name in ("grpo", "sft"))
    rollout, update = grpo.rollout, grpo.optimizer
    assert (rollout.prompts_per_step, rollout.samples_per_prompt, rollout.temperature) == (32, 8, 1.0)
    assert (grpo.train.steps, grpo.train.samples_per_update) == (40, 32 * 8)  # one update a rollout
    assert (update.lr, update.schedule, grpo.algorithm.reduction) == (1e-4, "constant", "token_mean")
    kept = grpo.algorithm.filter
    assert 0 < kept.lower * 8 <= 1 and 7 <= kept.upper * 8 < 8 and not kept.refill  # 0 and 8 of 8 are dropped
    assert (grpo.parallel.tp, grpo.launch.ranks, rollout.tp, grpo.precision.dtype) == (2, 2, 1, "fp32")
    assert (rollout.max_response_tokens, grpo.data.max_prompt_tokens, grpo.data.min_pixels) == (24, 64, 784)
    assert (sft.train.steps, sft.train.samples_per_update, sft.model.freeze_vision) == (320, 64, False)
    assert (sft.optimizer.lr, sft.optimizer.schedule, sft.optimizer.weight_decay) == (2e-3, "linear", 0.01)
    assert sft.optimizer.warmup_fraction * 320 == 20 and sft.optimizer.min_lr_ratio == 0.1


@pytest.mark.parametrize(
    "overrides, parts",
    [
        (["parallel.pp=3"], ["8 ranks", "parallel.tp 2", "parallel.pp 3", "multiple of 6"]),
        (["parallel.tp=8"], ["parallel.tp = 8", "4 key-value heads", "parallel.tp <= 4"]),
        (["parallel.pp=4", "parallel.vpp=3"], ["28 layers", "parallel.vpp 3 = 12"]),
        (["parallel.vpp=2"], ["parallel.vpp = 2", "parallel.pp > 1"]),
        (["parallel.tp=1", "parallel.sp=true"], ["parallel.sp", "parallel.tp > 1"]),
        (["parallel.cp=2"], ["parallel.cp = 2", "not supported yet"]),
        (["rollout.tp=3"], ["rollout.tp = 3", "number of ranks 8", "Use rollout.tp = 2"]),
        (["rollout.tp=8"], ["attention heads 28", "rollout.tp = 8", "Use rollout.tp = 7"]),
        (["rollout.prompts_per_step=4"], ["8 engines", "Use at least 8"]),
        (["train.samples_per_update=100"], ["1024 samples", "train.samples_per_update = 100", "Use 4"]),
        (["train.samples_per_update=2"], ["train.samples_per_update = 2", "4 data-parallel", "Use at least 4"]),
        (["launch.nodes=4", "rollout.tp=4", "parallel.tp=2"], ["rollout.tp = 4 does not fit into a node"]),
        (["rollout.samples_per_prompt=1"], ["samples_per_prompt = 1", "at least 2"]),
        (["train.samples_per_update=4"], ["train.samples_per_update = 4", "takes whole groups", "Use 8"]),
        (["rollout.max_response_tokens=126000"], ["129000", "128000 positions"]),
        (["train.max_tokens_per_microbatch=4096"], ["7096", "max_tokens_per_microbatch = 4096"]),
        (["algorithm.filter.lower=0.95"], ["algorithm.filter.lower = 0.95", "algorithm.filter.upper = 0.9"]),
        # of 8: 0.4 x 8 = 3.2 and 0.45 x 8 = 3.6 have no whole number between them
        (["algorithm.filter.lower=0.4", "algorithm.filter.upper=0.45"], ["samples_per_prompt = 8", "Widen"]),
        (["data.min_pixels=600000"], ["data.min_pixels = 600000", "data.max_pixels = 501760"]),
        (["data.train=[]"], ["data.train is empty"]),
        (["model.path="], ["model.path is empty"]),
        (["model.freeze_vision=false"], ["model.freeze_vision"]),
        (["logging.name=../../x"], ["logging.name = '../../x'", "give the folder around it as logging.root"]),
        (["logging.name=a/b"], ["logging.name = 'a/b'"]),
        (["logging.name='..'"], ["logging.name = '..'"]),
        (['logging.name="a\\nb"'], ["logging.name = 'a\\nb'"]),
        (["logging.name=" + "x" * 300], ["at most 200 bytes"]),
        (["launch.nodes=8"], ["parallel.tp = 2", "launch.nodes = 8"]),
        (["reward.accuracy_weight=0", "reward.format_weight=0"], ["reward.functions", "reward.services"]),
        (
            ["reward.overlong.penalty=1", "reward.overlong.buffer_tokens=5000"],
            ["reward.overlong.buffer_tokens = 5000", "max_response_tokens = 4096", "Use a buffer of 819"],
        ),
        (
            ["algorithm.correction.reject=token", "algorithm.correction.reject_low=3"],
            ["algorithm.correction.reject_low = 3", "algorithm.correction.reject_high = 2"],
        ),
        (["algorithm.dual_clip=1.1"], ["algorithm.dual_clip = 1.1", "algorithm.clip_high = 0.2"]),
        (["reward.overlong.penalty=1", "algorithm.truncated=penalize"], ["algorithm.truncated = penalize"]),
        (
            ["reward.repetition.penalty=1", "algorithm.truncated=penalize"],
            ["algorithm.truncated = penalize", "reward.repetition.penalty", "Set algorithm.truncated = keep"],
        ),
    ],
)
def test_each_problem_is_named_with_its_remedy(overrides, parts):
    with pytest.raises(ValueError) as error:
        check(seven(*overrides), SEVEN, 8)
    for part in parts:
        assert part in str(error.value)


def test_sizes_of_the_model_are_checked():
    odd = replace(SEVEN, vocab_size=152065, ffn_size=18945, num_heads=27, num_kv_heads=3)
    with pytest.raises(ValueError) as error:
        check(seven(), odd, 8)
    for part in ("vocabulary size 152065", "FFN size 18945", "attention heads 27", "key-value heads 3"):
        assert part in str(error.value)


def test_all_problems_come_at_once():
    with pytest.raises(ValueError) as error:
        check(seven("parallel.cp=2", "parallel.vpp=2", "data.train=[]", "model.path="), SEVEN, 8)
    assert len(str(error.value).splitlines()) == 1 + 4


def test_bounds_that_meet_at_a_count_are_allowed():
    # 0.1 x 10 = 1 right of 10, though 0.1 is no binary fraction
    options = ("rollout.samples_per_prompt=10", "train.samples_per_update=160", "algorithm.filter.upper=0.1")
    check(seven(*options), SEVEN, 8)


def test_names_of_published_models_and_folders():
    assert find_source("Qwen/Qwen2.5-VL-72B-Instruct").info.num_layers == 80
    with pytest.raises(ValueError, match="neither a folder nor a known model.*Qwen2.5-VL-7B-Instruct"):
        find_source("Qwen/Qwen2.5-VL-9B-Instruct")


@pytest.mark.parametrize(
    "overrides, part",
    [
        (["rollout.top_p=0.9"], "rollout.top_p"),
        (["rollout.top_k=50", "algorithm.correction.weights=sequence"], "rollout.top_k"),
        (["rollout.top_p=0.9", "algorithm.correction.weights=none"], None),
        (["algorithm.adora.enabled=true"], None),
        (["algorithm.adora.enabled=true", "reward.format_weight=1"], "algorithm.adora"),
        (["algorithm.adora.enabled=true", "reward.accuracy_weight=0.5"], "algorithm.adora"),
        ([], None),
    ],
)
def test_what_is_seldom_meant_is_told_and_allowed(overrides, part):
    found = doubts(load_config(ROOT / "configs" / "digits" / "grpo.yaml", overrides))
    assert (len(found) == 1 and part in found[0]) if part else found == []

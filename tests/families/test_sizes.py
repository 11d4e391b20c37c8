"""config.json in every form that transformers has written, against transformers; and what is refused by name."""

import copy
import json
from pathlib import Path

import pytest
from transformers import AutoConfig
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLConfig, Qwen2_5_VLVisionConfig

from megatron_eureka.families import read_sizes
from megatron_eureka.families.qwen2_5_vl.sizes import CLASS_DEFAULTS, VISION_DEFAULTS
from megatron_eureka.families.source import ModelSource

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"
TEXT = {
    "hidden_size": 2048,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "intermediate_size": 11008,
    "vocab_size": 151936,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 128000,
    "hidden_act": "silu",
    "use_sliding_window": False,
    "sliding_window": 32768,
    "max_window_layers": 70,
}
SECTION = {"mrope_section": [16, 24, 24]}
PLAIN = {"rope_theta": 1e6, "rope_scaling": {"type": "mrope", **SECTION}}
VISION_DIFFERING = {"hidden_size": 1280, "in_chans": 3, "out_hidden_size": 2048, "tokens_per_second": 2}
VISION = {**VISION_DEFAULTS, **VISION_DIFFERING}
TOP = {"model_type": "qwen2_5_vl", "image_token_id": 151655, "vision_start_token_id": 151652}
AS_DEFAULT = {"rope_theta": 1e6, "rope_scaling": {"rope_type": "default", "type": "default", **SECTION}}
PARAMETERS = {"rope_parameters": {"rope_type": "default", "type": "mrope", "rope_theta": 1e6, **SECTION}}
FULL_LAYERS = {"sliding_window": None, "layer_types": ["full_attention"] * 36}
# A tied model of 3B's sizes as the hub has it, and as releases save it again.
FORMS = {
    "hub": {**TOP, **TEXT, **PLAIN, "tie_word_embeddings": True, "vision_config": VISION},
    "4.49": {**TOP, **TEXT, **AS_DEFAULT, "tie_word_embeddings": True, "vision_config": VISION_DIFFERING},
    "4.50 to 4.51": {**TOP, **TEXT, **AS_DEFAULT, "tie_word_embeddings": True, "vision_config": VISION},
    "4.52 to 4.57": {  # the flag in the section alone
        **TOP,
        **TEXT,
        **AS_DEFAULT,
        "text_config": {**TEXT, **AS_DEFAULT, **FULL_LAYERS, "tie_word_embeddings": True},
        "vision_config": VISION,
    },
    "5": {
        **TOP,
        "text_config": {**TEXT, **PARAMETERS, **FULL_LAYERS},
        "tie_word_embeddings": True,
        "vision_config": {**VISION, "rope_parameters": {"rope_theta": 1e4, "rope_type": "axial"}},
    },
}


def write(folder, config):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def agrees_with_transformers(folder):
    info, theirs = ModelSource.open(folder).info, AutoConfig.from_pretrained(folder)
    text, vision, rope = theirs.text_config, theirs.vision_config, theirs.text_config.rope_parameters
    assert (info.hidden_size, info.num_layers, info.ffn_size, info.vocab_size) == (
        text.hidden_size, text.num_hidden_layers, text.intermediate_size, text.vocab_size,
    )  # fmt: skip
    assert (info.num_heads, info.num_kv_heads) == (text.num_attention_heads, text.num_key_value_heads)
    assert (info.rms_norm_eps, info.max_positions) == (text.rms_norm_eps, text.max_position_embeddings)
    assert (info.rope_theta, list(info.mrope_section)) == (rope["rope_theta"], rope["mrope_section"])
    assert (info.tied, info.image_token_id) == (theirs.tie_word_embeddings, theirs.image_token_id)
    assert info.vision_start_token_id == theirs.vision_start_token_id
    ours = {("intermediate_size" if name == "ffn_size" else name): size for name, size in vars(info.vision).items()}
    assert ours == {name: getattr(vision, name) for name in ours}
    return info


@pytest.mark.parametrize("form", FORMS)
def test_every_form_reads_as_transformers_reads_it(form, tmp_path):
    info = agrees_with_transformers(write(tmp_path / "model", FORMS[form]))
    assert info == read_sizes(FORMS["hub"])
    assert (info.tied, info.vision.depth, info.vision.hidden_size, info.vision.num_heads) == (True, 32, 1280, 16)


def test_what_todays_release_saves_of_each_form_reads_the_same(tmp_path):
    for form, config in FORMS.items():
        AutoConfig.from_pretrained(write(tmp_path / "model", config)).save_pretrained(tmp_path / "again")
        assert ModelSource.open(tmp_path / "again").info == read_sizes(FORMS["hub"]), form


@pytest.mark.parametrize("size, hidden, layers, ffn", [("7b", 3584, 28, 3420), ("32b", 5120, 64, 3456)])
def test_files_that_4_49_0_saved(size, hidden, layers, ffn):
    folder = CASES / "config_transformers_4.49" / size
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    info = agrees_with_transformers(folder)
    assert (info.hidden_size, info.num_layers, info.vision.ffn_size) == (hidden, layers, ffn)
    assert info.vision.out_hidden_size == hidden


def test_the_defaults_are_those_of_the_class():
    assert {name: getattr(Qwen2_5_VLVisionConfig(), name) for name in VISION_DEFAULTS} == VISION_DEFAULTS
    assert {name: getattr(Qwen2_5_VLConfig(), name) for name in CLASS_DEFAULTS} == CLASS_DEFAULTS


def test_a_size_of_the_language_model_has_no_default():
    for name in ("hidden_size", "num_hidden_layers", "vocab_size", "rms_norm_eps", "vision_config"):
        config = {key: value for key, value in FORMS["4.49"].items() if key != name}
        with pytest.raises(ValueError, match=f"'{name}' is missing"):
            read_sizes(config)
    config = FORMS["hub"] | {"rope_scaling": {"type": "mrope"}}  # transformers and vLLM fill the gap differently
    with pytest.raises(ValueError, match="'mrope_section' is missing"):
        read_sizes(config)


@pytest.mark.parametrize(
    "change, parts",
    [
        ({"rope_scaling": {"type": "yarn", "factor": 4, **SECTION}}, ["rope_scaling.type is 'yarn'", "Set it to 'mr"]),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2, **SECTION}}, ["rope_scaling.rope_type is 'linear'"]),
        ({"rope_scaling": {"rope_type": "dynamic", **SECTION}}, ["rope_scaling.rope_type is 'dynamic'"]),
        ({"rope_scaling": {"rope_type": "default", "type": "yarn", **SECTION}}, ["rope_scaling.type is 'yarn'"]),
        ({"rope_scaling": {"partial_rotary_factor": 0.5, **SECTION}}, ["partial_rotary_factor is 0.5"]),
        ({"use_sliding_window": True}, ["use_sliding_window is true", "Set it to false"]),
        ({"layer_types": ["full_attention", "sliding_attention"]}, ["layer_types names 'sliding_attention'"]),
        ({"hidden_act": "gelu"}, ["hidden_act is 'gelu'", "only 'silu'"]),
        ({"head_dim": 64}, ["head_dim is 64", "2048 / num_attention_heads 16"]),
    ],
)
@pytest.mark.parametrize("form", ["hub", "5"])
def test_what_the_trainer_does_not_compute_is_refused_by_name(change, parts, form):
    config = copy.deepcopy(FORMS[form])
    if form == "5":  # where transformers 5 has it; its rope is `rope_parameters`
        change = {"rope_parameters" if key == "rope_scaling" else key: value for key, value in change.items()}
        parts = [part.replace("rope_scaling", "text_config.rope_parameters") for part in parts]
        config["text_config"].update(change)
    else:
        config.update(change)
    with pytest.raises(ValueError) as error:
        read_sizes(config, origin="models/x/config.json")
    for part in ("models/x/config.json: ", *parts):
        assert part in str(error.value)


def test_quantised_models_are_refused_with_their_method():
    for method in ("awq", "gptq", "fp8"):
        with pytest.raises(ValueError, match=rf"the weights are quantised \({method}\). Give the model's original"):
            read_sizes(FORMS["hub"] | {"quantization_config": {"quant_method": method, "bits": 4}})


def test_all_reasons_come_at_once():
    change = {"use_sliding_window": True, "rope_scaling": {"type": "yarn", **SECTION}}
    with pytest.raises(ValueError) as error:
        read_sizes(FORMS["hub"] | change)
    assert len(str(error.value).splitlines()) == 2

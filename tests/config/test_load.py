"""Options from YAML and the command line: inheritance, overrides, and errors that name file and option."""

import functools
import json
import operator
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from megatron_eureka.config.load import dump, load_config, option_fields, schema_json
from megatron_eureka.config.schema import Config
from megatron_eureka.runs.changed_options import changed_options


def write(folder, name, text):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_base_files_chain_and_overrides_win(tmp_path):
    write(tmp_path, "shared/root.yaml", "train: {steps: 3, seed: 4}\ndata: {train: [a.jsonl, b.jsonl]}\n")
    write(tmp_path, "middle.yaml", "base: shared/root.yaml\ntrain:\n  seed: 5\ndata:\n  train: [c.jsonl]\n")
    leaf = write(tmp_path, "leaf.yaml", "base: middle.yaml\noptimizer:\n  lr: 2e-3\n")
    config = load_config(leaf, ["algorithm.filter.lower=0.25", "rollout.stop=['</answer>', x]", "parallel.sp=false"])
    assert (config.train.steps, config.train.seed, config.optimizer.lr) == (3, 5, 0.002)
    assert config.data.train == ["c.jsonl"]  # lists are replaced, not joined
    assert config.algorithm.filter.lower == 0.25 and config.algorithm.filter.upper == 0.9
    assert config.rollout.stop == ["</answer>", "x"]
    assert config.parallel.sp is False


def test_numbers_without_a_dot_are_numbers(tmp_path):
    file = write(tmp_path, "c.yaml", "optimizer: {lr: 1e-4, eps: 1E-9}\n")
    assert (load_config(file).optimizer.lr, load_config(file).optimizer.eps) == (1e-4, 1e-9)
    assert load_config(file, ["optimizer.lr=3e-5", "data.system_prompt="]).optimizer.lr == 3e-5


def test_dump_loads_back_equal(tmp_path):
    first = load_config(
        write(tmp_path, "a.yaml", "data: {system_prompt: 'Löse: \"x\"\\n', train: [a]}\noptimizer: {lr: 1e-7}\n")
    )
    assert load_config(write(tmp_path, "b.yaml", dump(first))) == first
    assert load_config(write(tmp_path, "empty.yaml", "train:\n")) == Config()


@pytest.mark.parametrize(
    "text, parts",
    [
        (
            "rollout: {temprature: 1}",
            ["c.yaml", "rollout.temprature is no option", "did you mean rollout.temperature?"],
        ),
        ("train: {lr: 1}", ["train.lr is no option", "did you mean optimizer.lr?"]),
        ("rolout: {}", ["rolout is no option", "did you mean rollout?"]),
        ("rollout: 3", ["c.yaml", "rollout = 3", "mapping of options"]),
        ("rollout: {temperature: hot}", ["c.yaml", "'hot'", "valid number", "Sampling temperature"]),
        ("train: {steps: '3'}", ["train.steps = '3'", "valid integer", "Steps of the run"]),
        ("train: {steps: 2.5}", ["train.steps = 2.5", "valid integer"]),
        ("train: {deterministic: 1}", ["train.deterministic = 1", "valid boolean"]),
        ("algorithm: {filter: {lower: 1.5}}", ["algorithm.filter.lower = 1.5", "less than or equal to 1"]),
        ("data: {train: a.jsonl}", ["data.train = 'a.jsonl'", "valid list, written as [a.jsonl]."]),
        ("model: {spec: fast}", ["'auto', 'local' or 'te'"]),
        ("- 1\n- 2\n", ["c.yaml", "mapping of sections"]),
        ("train: {steps: 1, steps: 2}", ["c.yaml", "duplicate key"]),
        ("base: [a, b]", ["base", "one YAML file"]),
        ("base: gone.yaml", ["gone.yaml", "no such file"]),
    ],
)
def test_bad_files_are_refused(tmp_path, text, parts):
    with pytest.raises(ValueError) as error:
        load_config(write(tmp_path, "c.yaml", text))
    for part in parts:
        assert part in str(error.value)


def test_errors_name_the_source_that_set_the_value(tmp_path):
    write(tmp_path, "base.yaml", "train: {steps: many}\n")
    leaf = write(tmp_path, "leaf.yaml", "base: base.yaml\noptimizer: {lr: high}\n")
    with pytest.raises(ValueError) as error:
        load_config(leaf, ["logging.name=3"])
    first, second, third = str(error.value).splitlines()  # in the schema's order
    assert "base.yaml: train.steps = 'many'" in first
    assert "leaf.yaml: optimizer.lr = 'high'" in second
    assert third.startswith("command line: logging.name = 3") and "Name of the run folder" in third


@pytest.mark.parametrize(
    "override, bound",
    [
        ("optimizer.lr=.inf", "finite number"),
        ("optimizer.lr=.nan", "finite number"),
        ("optimizer.lr=1e9", "less than or equal to 1. optimizer.lr: Peak learning rate: about what Adam moves"),
        ("optimizer.beta2=1.0", "less than 1"),  # the bias correction would divide by 0
        ("optimizer.clip_grad=.inf", "finite number"),
        ("algorithm.correction.cap=.inf", "finite number"),
        ("train.steps=100000000000000000000", "less than or equal to 2147483647"),
        ("train.seed=4294967296", "less than or equal to 2147483647"),  # numpy's seeds
        ("launch.timeout_s=1", "greater than or equal to 30"),
        ("launch.ranks=100000", "less than or equal to 1024"),
        ("reward.timeout_s=1e-9", "greater than or equal to 0.1"),
        ("reward.service_timeout_s=1e12", "less than or equal to 604800"),  # selectors overflow
        ("reward.workers=1000000", "less than or equal to 1024"),
        ("rollout.temperature=0.001", "greater than or equal to 0.01"),  # vLLM would draw as at 0.01
        ("rollout.gpu_memory_utilization=0.0", "greater than 0"),
        ("rollout.kv_cache_mib=999999999", "less than or equal to 16777216"),
    ],
)
def test_absurd_numbers_are_refused(override, bound):
    with pytest.raises(ValueError) as error:
        load_config(None, [override])
    name, _, _ = override.partition("=")
    assert str(error.value).startswith(f"command line: {name} = ") and bound in str(error.value)


def test_circles_of_bases_are_refused(tmp_path):
    write(tmp_path, "a.yaml", "base: b.yaml\n")
    write(tmp_path, "b.yaml", "base: a.yaml\n")
    with pytest.raises(ValueError, match="circle"):
        load_config(tmp_path / "a.yaml")


@pytest.mark.parametrize("override", ["nothing", "=3", "train.stepz=3", "train.steps=[1"])
def test_bad_overrides_are_refused(tmp_path, override):
    with pytest.raises(ValueError, match=r"no override|An override is written section|no option|not readable"):
        load_config(write(tmp_path, "c.yaml", ""), [override])


def test_schema_has_every_option_with_its_doc():
    schema = json.loads(schema_json())
    assert schema["additionalProperties"] is False and "base" in schema["properties"]
    assert schema["$defs"]["Train"]["properties"]["steps"]["description"].startswith("Steps of the run")
    assert all(field.description for field in option_fields().values())


def test_config_needs_no_torch():
    code = (
        "import sys, megatron_eureka.config.load, megatron_eureka.config.checks, "
        "megatron_eureka.families.source, megatron_eureka.config.options; "
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_list_on_the_command_line_is_shown_as_the_shell_takes_it():
    with pytest.raises(ValueError, match="valid list") as error:
        load_config(None, ["data.train=a.jsonl"])
    assert 'written as [a.jsonl]; in a shell: "data.train=[a.jsonl]".' in str(error.value)
    assert load_config(None, ["data.train=[a.jsonl]"]).data.train == ["a.jsonl"]


def options_of(file: Path) -> set[str]:
    """Dotted names of what a file and its bases set."""
    raw = yaml.safe_load(file.read_text("utf-8")) or {}
    base = options_of(file.parent / raw.pop("base")) if "base" in raw else set()

    def names(tree: dict, prefix: str = "") -> set[str]:
        found = set()
        for key, value in tree.items():
            found |= names(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}"}
        return found

    return base | names(raw)


CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SIZES = [*sorted(CONFIGS.glob("qwen2_5_vl_*.yaml")), CONFIGS / "digits" / "rl.yaml"]


@pytest.mark.parametrize("recipe", sorted((CONFIGS / "recipe").glob("*.yaml")), ids=lambda file: file.stem)
@pytest.mark.parametrize("size", SIZES, ids=lambda file: file.stem)
def test_a_recipe_may_stand_before_or_after_what_it_is_laid_over(size, recipe):
    assert not options_of(size) & options_of(recipe)
    before, after = (load_config(first, [str(second)]) for first, second in ((recipe, size), (size, recipe)))
    assert before == after


def leaves(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


@pytest.mark.parametrize("file", sorted(CONFIGS.rglob("*.yaml")), ids=lambda file: file.stem)
def test_no_file_says_what_holds_without_it(file):
    """A value that its base, or the default, has already."""
    raw = yaml.safe_load(file.read_text("utf-8"))
    base = raw.pop("base", None)
    inherited = load_config(file.parent / base if base else None).model_dump()
    whole = load_config(file).model_dump()

    def value_of(tree, option):
        return functools.reduce(operator.getitem, option.split("."), tree)

    assert not [option for option in leaves(raw) if value_of(whole, option) == value_of(inherited, option)]


def test_a_value_of_the_last_release_is_read_with_a_warning(tmp_path, caplog):
    file = tmp_path / "old.yaml"
    file.write_text("algorithm: {truncated: penalise}\n")
    assert load_config(file).algorithm.truncated == "penalize"
    assert "algorithm.truncated = penalise is now written penalize" in caplog.text
    before, now = file.read_text(), dump(load_config(file))
    assert "algorithm.truncated" not in " ".join(changed_options(before, now))  # a run that goes on is the same one
    with pytest.raises(ValueError, match="algorithm.truncated = 'punish'"):
        load_config(file, ["algorithm.truncated=punish"])

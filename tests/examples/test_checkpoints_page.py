"""docs/checkpoints.md: its commands run in their order, its programs print what it says, its table is the code's."""

import contextlib
import io
import re

import pytest

from examples.digits.model import make_model
from megatron_eureka.families import PUBLISHED
from megatron_eureka.weights import table
from tests.examples.pages import ROOT, blocks, clone, run_commands

PAGE = (ROOT / "docs" / "checkpoints.md").read_text("utf-8")
BLOCKS = blocks("checkpoints.md")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory like a clone's, with a model of transformers' `save_pretrained` where the page has one."""
    folder = tmp_path_factory.mktemp("page")
    make_model(folder / "models" / "qwen", num_layers=4)
    return clone(folder, "tools", "configs", "examples")


@pytest.mark.slow
def test_the_commands_run_one_after_another(folder):
    output = run_commands("checkpoints.md", folder)
    assert len(output) == 7
    assert "would write checkpoints/qwen: 81 tensors" in output[0]
    assert "in 4 files" in output[1]
    assert "equal, bit for bit: 81 tensors" in output[2]
    assert "Megatron checkpoint checkpoints/qwen" in output[6]
    assert (folder / "models" / "qwen-again" / "model.safetensors").is_file()


def test_the_functions_run(folder, monkeypatch):
    monkeypatch.chdir(folder)
    program = next(text for kind, text in BLOCKS if kind == "python" and "hf_to_megatron(" in text)
    exec(compile(program, "docs/checkpoints.md", "exec"), {})


def test_the_examples_print_what_the_page_says():
    names = {}
    examples = [
        (text, BLOCKS[number + 1][1])
        for number, (kind, text) in enumerate(BLOCKS)
        if kind == "python" and BLOCKS[number + 1 : number + 2] and BLOCKS[number + 1][0] == "text"
    ]
    assert len(examples) == 2
    for program, printed in examples:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(program, "docs/checkpoints.md", "exec"), names)
        assert out.getvalue() == printed


def test_the_table_names_every_parameter():
    info = PUBLISHED["Qwen/Qwen2.5-VL-7B-Instruct"]
    ours = {re.sub(r"\.layers\.\d+\.", ".layers.", rule.name) for rule in table(info)}
    named = set()
    for cell in re.findall(r"^\| `((?:embedding|decoder|output_layer)[^`]*)`", PAGE, re.MULTILINE):
        stem, _, braces = cell.partition("{")
        named |= {f"language_model.{stem}{kind}" for kind in braces.rstrip("}").split(",")}
    assert named == {name for name in ours if not name.startswith("visual.")}

"""docs/evaluation.md: its commands run in their order, its tables name what the code has."""

import re
import shutil
import threading

import pytest

from examples.digits.model import make_model
from megatron_eureka.datasets.benchmarks import BENCHMARKS
from tests.evaluate.test_judge import Server
from tests.examples.pages import ROOT, commands, run_command

PAGE = (ROOT / "docs" / "evaluation.md").read_text("utf-8")
COMMANDS = commands("evaluation.md")
# The tiny model is not the published one: short prompts and responses, few items, one rank.
SMALL = (
    " evaluation.max_prompts=2 rollout.max_response_tokens=8 data.max_prompt_tokens=1024 precision.dtype=fp32"
    " data.min_pixels=784"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory like a clone's, with models and benchmarks where the page has them."""
    folder = tmp_path_factory.mktemp("page")
    make_model(folder / "runs" / "mine" / "export", seed=1)
    make_model(folder / "models" / "Qwen2.5-VL-7B-Instruct")
    (folder / "data").mkdir()
    samples = ROOT / "examples" / "benchmarks" / "samples"
    for name, source in {"MathVista": "mathvista", "MathVerse": "mathverse", "K12": "k12"}.items():
        shutil.copytree(samples / source, folder / "data" / name)
    shutil.copytree(samples / "mathvision", folder / "data" / "MathVision")
    (folder / "said.jsonl").write_text(
        '{"id": "1", "response": "<answer>3</answer>, right"}\n{"id": 2, "response": "B"}\n'
    )
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


@pytest.mark.slow
def test_the_commands_run_one_after_another(folder):
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    output = []
    for command in COMMANDS:
        command = command.replace("http://localhost:8000/v1", server.url).replace(
            "--nproc-per-node 8", "--nproc-per-node 1"
        )
        small = SMALL if " eval " in command and "--responses" not in command and "eval.yaml" not in command else ""
        output.append(run_command(command.replace("launch.ranks=8", "") + small, folder))
    server.shutdown()
    server.server_close()
    assert len(output) == 8
    assert all(f"| {name} |" in output[1] for name in BENCHMARKS)
    assert "| mathverse | 2 | pass@1 |" in output[2] and "| base | tuned | difference | p |" in output[2]
    assert "| k12 | 2 | pass@8 |" in output[3]
    assert "| mathvision | 6 (4 without a response) | pass@1 | 33.3 " in output[4]
    assert "| k12 | 2 | pass@1 |" in output[6]
    assert (
        "| mathvision | 6 (4 without a response) | pass@1 | 16.7 " in output[7]
    )  # the judge says yes to "right" alone
    for name in ("summary.md", "summary.json", "model/k12.jsonl", "model/k12.responses.jsonl"):
        assert (folder / "runs" / "k12" / name).is_file()


def test_the_table_of_formats_names_every_benchmark():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \| .* \|$", PAGE.partition("## Formats")[2], re.MULTILINE))
    assert {name for name in rows if name in BENCHMARKS} == set(BENCHMARKS)


@pytest.mark.parametrize("name", ["mathvista", "mathverse", "mathvision", "olympiadbench", "k12"])
def test_the_table_of_formats_names_the_columns_that_are_read(name):
    """Every column that the page names stands in the loader's source, and the loader's own columns on the page."""
    row = re.search(rf"^\| `{name}` \| .* \| (.*) \|$", PAGE, re.MULTILINE).group(1)
    named = set(re.findall(r"`(\w+)`", row))
    source = (ROOT / "megatron_eureka" / "datasets" / "benchmarks" / f"{name}.py").read_text("utf-8")
    read = set(re.findall(r'row\.(?:text|texts|id|columns\.get)\(["\'](\w+)["\']', source))
    assert read <= named, read - named
    missing = {column for column in named if column not in source and not column.startswith("image_")}
    assert not missing

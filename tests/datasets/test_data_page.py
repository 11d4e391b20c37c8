"""docs/data.md: its commands run in their order, and its tables are the code's; exit codes of the command line."""

import errno
import glob
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from megatron_eureka.cli import main
from megatron_eureka.datasets.layouts import NAMES
from megatron_eureka.log import logger
from tests.data.images import encoded, triangle

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "data.md").read_text("utf-8")
EXPECTED = [  # exit code, and what is said, of each command
    (0, "6 prompts in data/train.jsonl, images in data/images; left out: {'answer': 1}"),
    (0, "2 prompts in data/mine.jsonl"),
    (0, "1 prompts in data/chat.jsonl"),
    (1, "label: 1\n  data/mine.jsonl:2: math-verify cannot parse the label"),
    (1, "test_look_alike: 1\n  data/train.jsonl:3: has an image that looks like one of raw/test.parquet:1"),
    (0, "prompt tokens: min"),
    (0, "held against: questions 1, images 1"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the page takes for granted: raw files and a model."""
    from examples.digits.model import make_model

    folder = tmp_path_factory.mktemp("page")
    (folder / "raw").mkdir()
    answers = ["3", r"\frac{1}{2}", "B", "yes", "5 cm", None, "x>2"]
    rows = [
        {
            "problem": f"<image>Question {i}?",
            "answer": answer,
            "images": [{"bytes": encoded(triangle(i)), "path": None}],
        }
        for i, answer in enumerate(answers)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "raw" / "geometry.parquet")
    tests = [
        {"question": "New?", "image": {"bytes": encoded(triangle(40))}},
        {"question": "Also new?", "image": {"bytes": encoded(triangle(2), "JPEG", 0.7, quality=60)}},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(tests), folder / "raw" / "test.parquet")
    (folder / "raw" / "own.png").write_bytes(encoded(triangle(30)))
    mine = [{"text": "How long?", "gold": 4, "figure": "own.png"}, {"text": "Half?", "gold": r"\frac{1}{"}]
    (folder / "raw" / "mine.json").write_text(json.dumps(mine))
    chat = {"id": "c", "message": json.dumps([{"role": "user", "content": "1 + 1?"}]), "answer": "2"}
    (folder / "raw" / "chat.jsonl").write_text(json.dumps(chat) + "\n")
    (folder / "raw" / "k12" / "images").mkdir(parents=True)
    (folder / "raw" / "k12" / "images" / "1.png").write_bytes(encoded(triangle(50)))
    (folder / "raw" / "k12" / "k12.json").write_text(json.dumps([{"question": "Which?", "image_path": "1.png"}]))
    make_model(folder / "models" / "qwen", num_layers=1, vision_depth=1)
    return folder


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """A command line -> (exit code, standard output, standard error), in this process: torch takes seconds."""
    monkeypatch.chdir(folder)
    for name, value in {"handlers": [], "propagate": True, "level": logger.level}.items():  # set up by every command
        monkeypatch.setattr(logger, name, value)

    def call(command):
        words = [path for word in shlex.split(command) for path in (sorted(glob.glob(word)) or [word])]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as stop:
            main()
        return (stop.value.code or 0, *capsys.readouterr())

    return call


def test_the_commands_run_one_after_another(run, folder):
    commands = [line for text in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in text.splitlines()]
    assert len(commands) == len(EXPECTED)
    for command, (code, says) in zip(commands, EXPECTED, strict=True):
        status, out, err = run(command)
        assert status == code, f"{command}\n{out}{err}"
        assert says in out
    report = json.loads((folder / "report.json").read_text())
    assert report["counts"] == {"test_look_alike": 1}
    assert report["answers"]["kinds"] == {"mathematics": 2, "number": 2, "choice": 1, "words": 1}
    assert report["tests"] == {"questions": 4, "images": 3}


@pytest.mark.parametrize(
    "command, says",
    [
        ("check none.jsonl", "error: none.jsonl: no such file"),
        ("check raw/chat.jsonl --against raw/own.png", "unknown kind '.png'"),
        ("convert raw/own.png --out x/train.jsonl", "unknown kind '.png'"),
        ("convert raw/mine.json --out raw/own.png/train.jsonl", "error: raw/own.png"),
        ("check raw/chat.jsonl --model raw", "error: raw"),
        ("check raw/chat.jsonl --json none/report.json", "error: none/report.json"),
        ("convert raw/mine.json", "Missing option '--out'"),
        ("convert raw --out x/train.jsonl", "error: raw is a folder; it holds chat.jsonl, geometry.parquet"),
        ("convert raw/mine.json --out /", "error: / is a folder"),
        ("convert raw/mine.json --out x/train.jsonl --limit -3", "Invalid value for '--limit'"),
        ("check raw/geometry.parquet", "error: raw/geometry.parquet is parquet"),
        ("check raw/chat.jsonl --against raw", "error: raw holds chat.jsonl, geometry.parquet"),
        ("check raw/chat.jsonl --against k12=raw/none", "error: raw/none: no such file or folder"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(run, command, says):
    status, out, err = run(f"megatron-eureka data {command}")
    assert status == 2 and says in err and not out


def test_the_console_script(folder):
    script = Path(sys.executable).with_name("megatron-eureka")
    done = subprocess.run([script, "data", "check", "none"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr == "error: none: no such file.\n"


def test_the_page_names_every_column_and_kind():
    for names in NAMES.values():
        assert all(f"`{name}`" in PAGE for name in names)
    readers = {"data": "messages records labels"}
    readers["datasets"] = "check items convert conversations layouts placing tables images"
    files = [ROOT / "megatron_eureka" / room / f"{name}.py" for room in readers for name in readers[room].split()]
    sources = "".join(file.read_text("utf-8") for file in files)
    # those of test files are test_row
    kinds = set(re.findall(r"(?:Problem|BadRow|bad_row)\(\s*\"(\w+)\"", sources)) - {"row", "question", "choices"}
    table = PAGE.partition("| kind |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", table, re.MULTILINE)
    assert {name.strip("`") for row in rows for name in row.split(", ")} == kinds


@pytest.mark.parametrize("command", ["data", "data convert", "data check"])
def test_help(command):
    from typer.testing import CliRunner

    from megatron_eureka.cli import app

    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0 and (command == "data" or "Examples:" in result.output)


def test_demonstrations_without_an_answer_are_counted_in_the_open(run, tmp_path):
    lines = [{"message": [{"role": "user", "content": f"{n}?"}], "response": "A long story."} for n in range(2)]
    lines += [{"message": [{"role": "user", "content": "1 + 1?"}], "answer": "2"}]
    (tmp_path / "sft.jsonl").write_text("\n".join(map(json.dumps, lines)))
    status, out, _ = run(f"megatron-eureka data check {tmp_path}/sft.jsonl")
    assert status == 0 and "responses without an answer, for SFT alone: 2\n" in out


def test_a_full_disk_is_one_message_and_exit_code_1(run, folder, monkeypatch):
    def fail(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    status, out, err = run(
        "megatron-eureka data convert raw/mine.json --question text --answer gold --out full/x.jsonl"
    )
    assert status == 1 and not out and err.startswith("error: full/x.jsonl: the disk of ") and "is full" in err
    assert list((folder / "full").iterdir()) == []

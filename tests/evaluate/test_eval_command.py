"""`megatron-eureka eval` as a user runs it: six formats, two models, a kill, bad input, responses without a model."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from examples.digits.model import make_model
from megatron_eureka.checkpoints import hf_to_megatron
from megatron_eureka.cli import app
from tests.train.runs import end, leftovers

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "examples" / "benchmarks" / "samples"
CONFIG = "examples/benchmarks/eval.yaml"
COUNTS = {"mathvista": 8, "mathverse": 12, "mathvision": 6, "olympiadbench": 8, "k12": 6, "jsonl": 6}


def start(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "megatron_eureka", "eval", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    )


def run(*arguments: object, timeout: float = 300) -> subprocess.CompletedProcess:
    process = start(*arguments)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        end(process)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval")
    make_model(folder / "base")
    make_model(folder / "tuned", seed=1)
    return folder


@pytest.fixture(scope="module")
def both(folder):
    """All six samples, answered by two models."""
    done = run(CONFIG, "--model", folder / "tuned", "--compare", folder / "base", "--out", folder / "out")
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_all_six_formats_by_two_models(folder, both):
    out = folder / "out"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["models"] == {"base": str(folder / "base"), "tuned": str(folder / "tuned")}
    for name, count in COUNTS.items():
        assert f"| {name} | {count} | pass@1 |" in both.stdout
        entry = summary["benchmarks"][name]
        for role, heading in (("model", "tuned"), ("compare", "base")):
            records = lines(out / role / f"{name}.jsonl")
            assert len(records) == count and all(record["response"] for record in records)
            rate = sum(record["correct"] for record in records) / count
            assert entry["models"][heading]["accuracy"]["value"] == pytest.approx(rate)
            assert entry["models"][heading]["unanswered"] == 0
        one, two = (lines(out / role / f"{name}.jsonl") for role in ("model", "compare"))
        assert [(a["id"], a["prompt"], a["gold"]) for a in one] == [(b["id"], b["prompt"], b["gold"]) for b in two]
        assert [a["response"] for a in one] != [b["response"] for b in two]  # two models
        assert set(entry["paired"]) >= {"difference", "low", "high", "p"}
    page = (out / "summary.md").read_text()
    assert "## mathverse by version" in page and "| Vision Only | 2 |" in page


@pytest.mark.slow
def test_the_same_command_again_asks_nothing(folder, both):
    before = (folder / "out" / "summary.json").read_text()
    started = time.monotonic()
    again = run(CONFIG, "--model", folder / "tuned", "--compare", folder / "base", "--out", folder / "out")
    assert again.returncode == 0 and again.stdout == both.stdout
    assert again.stderr.count("has answered everything already") == 2
    assert (folder / "out" / "summary.json").read_text() == before
    assert time.monotonic() - started < 60  # no engine was started: measured 4 s


@pytest.mark.slow
def test_a_killed_evaluation_goes_on(folder, both):
    out = folder / "killed"
    arguments = [CONFIG, "--model", folder / "tuned", "--out", out, "evaluation.chunk_prompts=2"]
    arguments += ["--benchmark", f"mathverse={SAMPLES / 'mathverse'}"]
    file = out / "model" / "mathverse.responses.jsonl"
    process = start(*arguments)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and (not file.exists() or file.stat().st_size == 0):
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=20)
    deadline = time.monotonic() + 20
    while leftovers(str(out)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not leftovers(str(out))
    kept = file.read_bytes()
    assert 0 < kept.count(b"\n") < 12
    file.write_bytes(kept[:-7])  # as if the kill had come in the middle of a line
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    answered = kept.count(b"\n") - 1
    assert f"{12 - answered} items to answer" in done.stderr
    assert lines(out / "model" / "mathverse.jsonl") == [
        {**record, "images": [str(out / "images" / Path(image).name) for image in record["images"]]}
        for record in lines(folder / "out" / "model" / "mathverse.jsonl")
    ]


@pytest.mark.slow
def test_samples_of_a_megatron_checkpoint_on_two_ranks(folder, both):
    """What the engines get is converted from the checkpoint; greedy answers are those of the folder that it is of."""
    hf_to_megatron(folder / "tuned", folder / "megatron")
    arguments = [CONFIG, "--model", folder / "megatron", "evaluation.max_prompts=3", "rollout.max_response_tokens=16"]
    arguments += ["--benchmark", f"k12={SAMPLES / 'k12' / 'k12.json'}"]
    done = run(*arguments, "--out", folder / "greedy", "launch.ranks=2")
    assert done.returncode == 0, done.stderr
    assert not (folder / "greedy" / "model" / ".hf").exists()
    greedy = [record["response"] for record in lines(folder / "greedy" / "model" / "k12.jsonl")]
    longer = [record["response"] for record in lines(folder / "out" / "model" / "k12.jsonl")]
    assert len(greedy) == 3
    for short, long in zip(greedy, longer, strict=False):  # half a character may stand at the end
        assert len(short) >= 4 and long.startswith(short.rstrip("\ufffd"))
    drawn = ["evaluation.samples=3", "evaluation.temperature=1.0", "evaluation.pass_k=[1,2]"]
    sampled = run(*arguments, "--out", folder / "sampled", *drawn)
    assert sampled.returncode == 0, sampled.stderr
    assert "| k12 | 3 | pass@2 |" in sampled.stdout and "pass@3" not in sampled.stdout
    for record in lines(folder / "sampled" / "model" / "k12.jsonl"):
        assert len({sample["response"] for sample in record["samples"]}) == 3


@pytest.mark.slow
def test_samples_of_more_prompt_tokens_than_a_batch_holds(folder, tmp_path):
    """vLLM's CPU build reads 4,096 at once; the prompts that it cuts in two are sampled all the same."""
    text = "What is the sum of the two digits? " * 8
    items = [{"message": [{"role": "user", "content": f"{n}. {text}"}], "answer": "3"} for n in range(80)]
    (tmp_path / "many.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items), "utf-8")
    arguments = [CONFIG, "--model", folder / "tuned", "--benchmark", f"jsonl={tmp_path / 'many.jsonl'}"]
    arguments += [
        "evaluation.samples=4",
        "evaluation.temperature=1.0",
        "--out",
        tmp_path / "out",
        "rollout.max_response_tokens=8",
    ]
    done = run(*arguments, "evaluation.system_prompt=", "evaluation.prompt=plain")
    assert done.returncode == 0, done.stderr
    records = lines(tmp_path / "out" / "model" / "jsonl.jsonl")
    assert len(records) == 80 and all(len(record["samples"]) == 4 for record in records)
    assert sum(len({sample["response"] for sample in record["samples"]}) for record in records) > 80


@pytest.mark.slow
def test_other_settings_do_not_mix_with_these(folder, both):
    arguments = [CONFIG, "--model", folder / "tuned", "--out", folder / "out", "rollout.max_response_tokens=63"]
    rejected = run(*arguments)
    assert rejected.returncode == 2
    assert "rollout.max_response_tokens was 64, now 63" in rejected.stderr and "--overwrite" in rejected.stderr
    assert "Traceback" not in rejected.stderr


TINY = ["--benchmark", f"k12={SAMPLES / 'k12'}"]
BAD = [
    ([CONFIG, "--model", "base", "evaluation.benchmarks=[]"], "There is no benchmark"),
    (TINY, "There is no model"),
    ([*TINY, "--model", "missing"], "--model: There is no folder 'missing'"),
    ([CONFIG, "--model", "base", "--compare", "missing"], "--compare: There is no folder 'missing'"),
    ([*TINY, "--model", "base"], "exceed the 2048 positions"),  # without the config's limits
    ([CONFIG, "--model", "base", "evaluation.samples=4"], "evaluation.samples = 4 needs a temperature"),
    ([CONFIG, "--model", "base", "evaluation.pass_k=one"], "evaluation.pass_k"),
    ([CONFIG, "--model", "base", "evaluation.pass_k=[2]"], "evaluation.pass_k = [2] does not fit"),
    ([CONFIG, "--model", "base", "--benchmark", "gsm8k=x"], "'gsm8k=x' is not NAME=PATH"),
    ([CONFIG, "--model", "base", "evaluation.prompt=loud"], "evaluation.prompt"),
    ([CONFIG, "--model", "base", "launch.nodes=2"], "--generate model"),
    ([CONFIG, "other.yaml", "--model", "base"], "other.yaml: no such file"),
    ([CONFIG, "--model", "base", "evaluation.samplse=2"], "did you mean evaluation.samples?"),
    ([*TINY, "--responses", "missing.jsonl"], "missing.jsonl is no file"),
    ([*TINY, "--responses", "x", "--model", "base"], "--model would change nothing. Leave it out"),
    (
        [*TINY, "--responses", "x", "evaluation.samples=2", "evaluation.temperature=1"],
        "evaluation.samples, evaluation.temperature would change nothing",
    ),
    ([*TINY, "--responses", "x", "--generate", "model"], "--generate would change nothing"),
    (
        [*TINY, "--responses", "x", "evaluation.prompt=plain", "evaluation.system_prompt=y"],
        "evaluation.prompt, evaluation.system_prompt would change nothing",
    ),
    ([*TINY, "--responses", "x", "--overwrite"], "--overwrite would change nothing"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_refused_before_anything_starts(folder, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("megatron_eureka.cli.evaluate.setup_logging", lambda: None)
    monkeypatch.setattr("megatron_eureka.cli.evaluate.launch_ranks", lambda *_: pytest.fail("ranks were started"))
    given = [str(folder / "base") if argument == "base" else str(argument) for argument in arguments]
    with pytest.raises(ValueError, match=re.escape(message)):
        app(["eval", *given, "--out", str(tmp_path / "out")], standalone_mode=False)
    assert not (tmp_path / "out" / "summary.json").exists()


def test_bad_input_is_one_line_and_exit_code_2(tmp_path):
    done = run(*TINY, "--out", tmp_path / "out", timeout=60)
    assert (
        done.returncode == 2
        and done.stderr == "error: There is no model: give --model DIR, model.path, or --responses FILE.\n"
    )


def test_ranks_of_torchrun_say_for_which_model_they_answer(folder, tmp_path):
    command = [sys.executable, "-m", "megatron_eureka", "eval", CONFIG, "--model", str(folder / "base")]
    environment = {**os.environ, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, env=environment)
    assert done.returncode == 2 and "give --generate with one of model" in done.stderr


def said(path: Path, answers: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps({"id": name, "response": text}) + "\n" for name, text in answers.items()))
    return path


VISTA = {"1": "<answer>3</answer>", "2": "It is (B)", "3": "circle", "4": "4π, so 12.566", "5": "\\boxed{20 cm}"}
VISTA |= {"6": "[20, 40, 30]", "7": "The answer is blue.", "8": "<answer>50%</answer>"}


def test_responses_are_scored_without_a_model(tmp_path):
    file = said(tmp_path / "said.jsonl", {**VISTA, "9": "of no item"})
    arguments = ["--responses", file, "--benchmark", f"mathvista={SAMPLES / 'mathvista'}"]
    started = time.monotonic()
    done = run(*arguments, "--out", tmp_path / "out", timeout=60)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 30  # measured 2 s on an idle machine: neither torch nor vLLM is loaded
    assert "| mathvista | 8 | pass@1 | 100.0 [67.6, 100.0] |" in done.stdout
    assert "1 unknown ids, 0 unusable rows" in done.stderr
    assert [record["correct"] for record in lines(tmp_path / "out" / "model" / "mathvista.jsonl")] == [True] * 8


def test_two_files_of_responses_side_by_side(tmp_path):
    tuned = said(tmp_path / "tuned.jsonl", VISTA)
    base = said(tmp_path / "base.jsonl", {name: text for name, text in VISTA.items() if name > "6"})
    arguments = ["--responses", tuned, "--compare", base, "--benchmark", f"mathvista={SAMPLES / 'mathvista'}"]
    done = run(*arguments, "--out", tmp_path / "out", timeout=60)
    assert done.returncode == 0, done.stderr
    # 6 won of 8, none lost: McNemar 2 / 2 ** 6
    assert "| 25.0 [7.1, 59.1] | 100.0 [67.6, 100.0] | +75.0 " in done.stdout and "| 0.0312 |" in done.stdout
    assert "| mathvista | 8 (base: 6 without a response) | pass@1 |" in done.stdout
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["benchmarks"]["mathvista"]["models"]["base"]["unanswered"] == 6


def test_several_responses_to_each_item(tmp_path):
    answers = {str(n): ["<answer>3</answer>", "<answer>2</answer>"] for n in range(1, 9)}
    file = said(tmp_path / "said.jsonl", answers)
    arguments = ["--responses", file, "--benchmark", f"mathvista={SAMPLES / 'mathvista'}", "evaluation.pass_k=[1,2]"]
    done = run(*arguments, "--out", tmp_path / "out", timeout=60)
    assert done.returncode == 0, done.stderr
    assert "| mathvista | 8 | pass@1 | 6.2 " in done.stdout and "| mathvista | 8 | pass@2 | 12.5 " in done.stdout


def test_responses_to_something_else_are_refused(tmp_path):
    file = said(tmp_path / "said.jsonl", {"x": "3"})
    one = run("--responses", file, "--benchmark", f"k12={SAMPLES / 'k12'}", "--out", tmp_path / "out", timeout=60)
    assert one.returncode == 2 and "none of its 1 ids is one of k12's" in one.stderr
    many = run(CONFIG, "--responses", file, "--out", tmp_path / "out", timeout=60)
    assert many.returncode == 2 and "one benchmark at a time" in many.stderr


def test_scoring_responses_loads_neither_torch_nor_vllm(tmp_path):
    file = said(tmp_path / "said.jsonl", VISTA)
    program = (
        "import sys\nfrom megatron_eureka.cli import app\n"
        f"app(['eval', '--responses', {str(file)!r}, '--benchmark', 'mathvista={SAMPLES / 'mathvista'}', "
        f"'--out', {str(tmp_path / 'out')!r}], standalone_mode=False)\n"
        "assert not {'torch', 'vllm', 'transformers', 'megatron.core', 'sympy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr

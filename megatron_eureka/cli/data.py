"""`megatron-eureka data`: convert public training sets, and check training files before anything trains on them.

The commands import what works on images: with it torch comes, and seconds for every other command.
"""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megatron_eureka.config.schema import ANSWER_PROMPT, Data, Reward
from megatron_eureka.files import write_atomically
from megatron_eureka.log import setup_logging
from megatron_eureka.rewards.pool import VerifierPool

if TYPE_CHECKING:
    from megatron_eureka.datasets.check import Report, TokenCounter

PROBLEMS_FOUND = 1
MAX_SHOWN = 10  # problems of a kind; --json has all

CONVERT_HELP = """Turn a public data set into training JSONL and image files.

Rows come from .parquet, .json and .jsonl files. They have a question, an answer, options and images in columns of the
usual names (MMK12, Geometry3K, MathVista, R1-V) or of those given here, where a dot leads into a mapping; or chat turns
(MM-EUREKA, verl, LLaVA, ms-swift, LLaMA-Factory), of which a last one of the assistant becomes a demonstration. Rows
that cannot be used are counted and named.

Examples:

  megatron-eureka data convert mmk12/data/train-*.parquet --out data/mmk12/train.jsonl

  megatron-eureka data convert rows.json --question text --answer gold --image figure --out data/mine/train.jsonl
"""
CHECK_HELP = """Check training JSONL: bad lines, labels, lengths, images, duplicates, overlap with test sets.

The exit code is 0 where nothing was found, 1 where something was, 2 for bad input.

Examples:

  megatron-eureka data check data/mmk12/train.jsonl

  megatron-eureka data check train.jsonl --against mathvista=data/MathVista --against heldout.jsonl

  megatron-eureka data check train.jsonl --model models/Qwen2.5-VL-7B-Instruct --json report.json
"""

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Convert and check data sets.")


@app.command(help=CONVERT_HELP)
def convert(
    files: Annotated[list[Path], typer.Argument(help=".parquet, .json or .jsonl files.")],
    out: Annotated[Path, typer.Option(help="JSONL file to write.")],
    images: Annotated[Path | None, typer.Option(help="Folder for the images; default: images beside OUT.")] = None,
    id: Annotated[str, typer.Option(help="Name of the id's column; default: the usual ones.")] = "",
    question: Annotated[str, typer.Option(help="Name of the question's column.")] = "",
    answer: Annotated[str, typer.Option(help="Name of the answer's column.")] = "",
    image: Annotated[str, typer.Option(help="Name of the images' column.")] = "",
    options: Annotated[str, typer.Option(help="Name of the column of a multiple-choice question's options.")] = "",
    response: Annotated[str, typer.Option(help="Name of the demonstration's column, for SFT.")] = "",
    system: Annotated[
        str | None, typer.Option(help="System turn of every prompt; default: one that asks for the tags; empty: none.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Stop after so many rows; 0: all.")] = 0,
) -> None:
    """Convert rows."""
    from megatron_eureka.datasets.convert import Conversion
    from megatron_eureka.datasets.convert import convert as convert_files
    from megatron_eureka.datasets.layouts import Columns

    setup_logging()
    folder = images or out.parent / "images"
    turn = ANSWER_PROMPT if system is None else system
    try:
        columns = Columns(id, question, answer, image, options, response)
        counts = convert_files(files, Conversion(out, folder, columns, turn, limit))
    except OSError as error:
        raise ValueError(f"{error.filename or out}: {error.strerror or error}") from error
    left_out = {kind: number for kind, number in counts.items() if kind != "written"}
    typer.echo(f"{counts['written']} prompts in {out}, images in {folder}; left out: {left_out or 'none'}")


@app.command(help=CHECK_HELP)
def check(
    files: Annotated[list[Path], typer.Argument(help="Training JSONL.")],
    against: Annotated[
        list[str] | None,
        typer.Option(help="Test file or folder in any layout, or BENCHMARK=PATH as `eval` takes it; may be repeated."),
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Model folder: measure prompts in tokens too.")] = None,
    image_root: Annotated[
        Path | None, typer.Option(help="Folder of FILES' relative paths; default: their own.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the whole report.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that try to parse the labels.")] = 2,
) -> None:
    """Check files."""
    from megatron_eureka.datasets.check import check_files

    setup_logging()
    if json_file and not json_file.parent.is_dir():  # said before the work
        raise ValueError(f"{json_file}: {json_file.parent} is no folder. Make it, or give another --json.")
    counter = _token_counter(model) if model else None
    tests = [file for value in against or [] for file in _test_files(value)]
    report = check_files(files, lambda labels: _judge(labels, workers), tests, image_root, counter)
    if json_file:
        text = json.dumps(report.as_dict(), indent=1, ensure_ascii=False) + "\n"
        try:
            write_atomically(json_file, text, errors="backslashreplace")
        except OSError as error:
            raise ValueError(f"{json_file}: {error.strerror or error}") from error
    for line in render(report):
        typer.echo(line)
    if report.problems:
        raise typer.Exit(PROBLEMS_FOUND)


def _test_files(value: str) -> list[Path]:
    """The file or folder itself; of a benchmark, the files that its evaluation reads."""
    from megatron_eureka.datasets.benchmarks import BENCHMARKS
    from megatron_eureka.datasets.tables import find_files

    name, equals, path = value.partition("=")
    if not equals or name not in BENCHMARKS or Path(value).exists():
        return [Path(value)]
    return find_files(Path(path), BENCHMARKS[name].PATTERNS)


def render(report: Report) -> list[str]:
    """The report's lines, the first problems of each kind among them."""
    lines = [f"{report.lines} lines, {report.read} of them readable"]
    lines += [f"{name}: {_show(value)}" for name, value in _measures(report).items() if value]
    for kind, number in report.counts.items():
        lines.append(f"{kind}: {number}")
        shown = [problem for problem in report.problems if problem.kind == kind][:MAX_SHOWN]
        lines += [f"  {problem.place}: {problem.reason}" for problem in shown]
        lines += [f"  ... and {number - MAX_SHOWN} more"] if number > MAX_SHOWN else []
    return [*lines, f"{len(report.problems)} problems" if report.problems else "no problems"]


def _measures(report: Report) -> dict[str, object]:
    rate = report.answers.get("parse_rate")
    return {
        "answers": report.answers.get("kinds"),
        "answers that can be verified": None if rate is None else f"{rate:.1%}",
        "responses without an answer, for SFT alone": report.answers.get("without"),
        **{f"prompt {name}": value for name, value in report.prompts.items()},
        **{f"image {name}": value for name, value in report.images.items()},
        "held against": report.tests,
    }


def _show(value: object) -> str:
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(
        f"{name} {number:.1f}" if isinstance(number, float) else f"{name} {number}" for name, number in value.items()
    )


def _judge(labels: list[str], workers: int) -> list[tuple[str, str | None]]:
    """Kind of each label, and why it cannot be verified or None; each bounded in time."""
    with closing(VerifierPool(workers, Reward().timeout_s)) as pool:
        reasons = pool.run([("check_label", (label,)) for label in labels])
        kinds = pool.run([("label_kind", (label,)) for label in labels])
    return [
        (kind.value, reason.value)
        if reason.status == kind.status == "ok"
        else ("unknown", f"the label {label!r:.200} cannot be verified: {reason.value}")
        for label, kind, reason in zip(labels, kinds, reasons, strict=True)
    ]


def _token_counter(model: Path) -> TokenCounter:
    from megatron_eureka.data.processor import load_processor
    from megatron_eureka.datasets.check import TokenCounter
    from megatron_eureka.families.source import ModelSource

    options = Data()
    return TokenCounter(load_processor(ModelSource.open(model)), options.min_pixels, options.max_pixels)

"""An evaluation on disk: what stands in its folder, what is still to be answered, and the summary at its end.

OUT/model/NAME.responses.jsonl   what the model said, with the settings beside it
OUT/model/NAME.jsonl             an item a line: prompt, response, extracted, gold, correct
OUT/compare/...                  the same of the model that it is compared with
OUT/summary.json, summary.md     rates, intervals, subsets, both models side by side
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from megatron_eureka.config.schema import Config
from megatron_eureka.datasets.benchmarks import Benchmark, load_benchmark
from megatron_eureka.evaluate.judge import Judge
from megatron_eureka.evaluate.plan import pass_ks, response_file, sampling, sources
from megatron_eureka.evaluate.report import BASE, TUNED, markdown
from megatron_eureka.evaluate.responses import Response, read_responses
from megatron_eureka.evaluate.results import ItemResult, score_responses, with_verdicts, write_results
from megatron_eureka.evaluate.scoring import AnswerScorer
from megatron_eureka.evaluate.summary import compare, summarize
from megatron_eureka.files import write_atomically
from megatron_eureka.log import logger

MODEL, COMPARE = "model", "compare"  # folders, and what --generate takes


@dataclass(frozen=True)
class Session:
    """One evaluation: its options, the models by folder, and the benchmarks."""

    config: Config
    out: Path
    models: dict[str, Path]  # MODEL, and COMPARE if there is one
    benchmarks: tuple[Benchmark, ...]

    @property
    def names(self) -> dict[str, str]:
        """Folder -> heading in the summary."""
        return {COMPARE: BASE, MODEL: TUNED} if COMPARE in self.models else {MODEL: MODEL}


def open_session(config: Config, out: Path, models: Mapping[str, Path], keep_images: bool = True) -> Session:
    """Check the options and read the benchmarks.

    Args:
        keep_images: write images that stand in tables to OUT/images.

    Raises:
        ValueError: no benchmark, a file that cannot be used, or options that do not fit each other.
    """
    sampling(config.evaluation, config.rollout), pass_ks(config.evaluation)
    wanted = sources(config.evaluation)
    if not wanted:
        raise ValueError("There is no benchmark: give --benchmark NAME=PATH, or evaluation.benchmarks in the options.")
    folder, limit = out / "images" if keep_images else None, config.evaluation.max_prompts
    benchmarks = tuple(load_benchmark(source.name, source.path, folder, limit) for source in wanted)
    return Session(config, out, dict(models), benchmarks)


def pending(session: Session, role: str) -> int:
    """Items of all benchmarks that a model has not answered yet.

    Raises:
        ValueError: there are responses made under other settings.
    """
    given = _read(session, role)
    return sum(item.id not in given[benchmark.name] for benchmark in session.benchmarks for item in benchmark.items)


def _read(session: Session, role: str) -> dict[str, dict[str, Response]]:
    """Benchmark -> id -> response."""
    found = {}
    for benchmark in session.benchmarks:
        file = response_file(session.config, session.models[role], session.out / role, benchmark)
        file.check()
        found[benchmark.name] = file.read()
    return found


def clear(out: Path) -> None:
    """Remove what an earlier evaluation left in a folder; the judge's verdicts stay, they do not depend on it."""
    for name in (MODEL, COMPARE, "images"):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in ("summary.json", "summary.md"):
        (out / name).unlink(missing_ok=True)


def finish(session: Session) -> dict:
    """Score what the models said and write results and summary.

    Returns:
        what stands in summary.json.

    Raises:
        ValueError: items are missing.
    """
    for role in session.names:
        missing = pending(session, role)
        if missing:
            raise ValueError(f"{session.out / role}: {missing} items have no response yet. Run the same command again.")
    return _summarize(session, {role: _read(session, role) for role in session.names})


def score_files(config: Config, out: Path, files: Mapping[str, Path]) -> dict:
    """Score responses that somebody else has, without a model.

    Args:
        files: MODEL, and COMPARE if there is one -> file of responses.

    Returns:
        what stands in summary.json.

    Raises:
        ValueError: bad input, or several benchmarks: ids would be ambiguous.
    """
    found = {role: read_responses(file) for role, file in files.items()}
    counts = [len(entry.responses) for responses, _ in found.values() for entry in responses.values()]
    samples = min([count for count in counts if count], default=1)  # of an item without any, every k fails
    # Nobody knows how they were drawn; several that differ had a temperature.
    changes = {"samples": samples, "temperature": 1.0, "pass_k": config.evaluation.pass_k or [1]}
    config = config.model_copy(update={"evaluation": config.evaluation.model_copy(update=changes)})
    session = open_session(config, out, files, keep_images=False)
    if len(session.benchmarks) > 1:
        raise ValueError("--responses are scored for one benchmark at a time: give one --benchmark.")
    (benchmark,) = session.benchmarks
    known = {item.id for item in benchmark.items}
    for role, (responses, unusable) in found.items():
        unknown = len(responses.keys() - known)
        if unknown == len(responses):
            raise ValueError(f"{files[role]}: none of its {unknown} ids is one of {benchmark.name}'s.")
        if unknown or unusable:
            logger.warning("%s: %d unknown ids, %d unusable rows", files[role], unknown, unusable)
    return _summarize(session, {role: {benchmark.name: responses} for role, (responses, _) in found.items()})


def _summarize(session: Session, given: Mapping[str, Mapping[str, Mapping[str, Response]]]) -> dict:
    options = session.config.evaluation
    judge = Judge(options, session.out / "judge.jsonl") if options.judge_url else None
    reward = session.config.reward
    entries = {}
    with AnswerScorer(reward.workers, reward.timeout_s, reward.compat) as scorer:
        for benchmark in session.benchmarks:
            results = {}
            for role in session.names:
                found = score_responses(benchmark, given[role][benchmark.name], scorer)
                results[role] = with_verdicts(found, judge.verdicts(found)) if judge else found
                write_results(session.out / role / f"{benchmark.name}.jsonl", results[role])
            entries[benchmark.name] = _entry(session, benchmark, results)
        failed = sum(scorer.counters.values())
    summary = {
        "models": {heading: str(session.models[role]) for role, heading in session.names.items()},
        "settings": _reported_settings(session),
        "comparisons_failed": failed,
        **({"judge": {"model": options.judge_model, **judge.counters}} if judge else {}),
        "benchmarks": entries,
    }
    write_atomically(
        session.out / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n", errors="replace"
    )
    write_atomically(session.out / "summary.md", markdown(summary), errors="replace")
    return summary


def _entry(session: Session, benchmark: Benchmark, results: Mapping[str, tuple[ItemResult, ...]]) -> dict:
    wanted = pass_ks(session.config.evaluation)
    return {
        "files": [str(file) for file in benchmark.files],
        "left_out": benchmark.left_out,
        "models": {session.names[role]: summarize(found, wanted) for role, found in results.items()},
        "paired": compare(results[COMPARE], results[MODEL]) if COMPARE in results else None,
    }


def _reported_settings(session: Session) -> dict[str, object]:
    """What decides on the responses, for the summary; of files that somebody else made nothing is known."""
    if any(path.is_file() for path in session.models.values()):
        return {}
    options = session.config.evaluation
    drawn = sampling(options, session.config.rollout)
    return {
        "samples": options.samples,
        "temperature": drawn.temperature,
        "prompt": options.prompt,
        "longest response, tokens": drawn.max_tokens,
        "image bounds, pixels": f"{session.config.data.min_pixels} to {session.config.data.max_pixels}",
        "judge": options.judge_model,
    }

"""Evaluations during a run: held-out prompts and benchmarks, asked through the engines that train."""

from __future__ import annotations

import time

from megatron_eureka.evaluate import heldout
from megatron_eureka.evaluate.periodic import evaluate_benchmarks
from megatron_eureka.log import logger
from megatron_eureka.parallel.main_rank import run_on_main
from megatron_eureka.train.session import Session


def lacks_evaluation(session: Session, step: int) -> bool:
    """Whether something that is evaluated has no result after `step` yet; a collective over the whole job."""
    return _lacks_heldout(session, step) or _lacks_benchmarks(session, step)


def evaluate(session: Session, step: int) -> None:
    """Evaluate after `step` what has no result yet, in the engine's turn; a collective over the whole job."""
    if _lacks_heldout(session, step):
        _answer_heldout(session, step)
    if _lacks_benchmarks(session, step):
        _answer_benchmarks(session, step)


def _lacks_heldout(session: Session, step: int) -> bool:
    file = session.run.folder.evaluation / f"step_{step}.jsonl"
    return bool(session.data.heldout) and not run_on_main(file.exists, for_all=True)


def _lacks_benchmarks(session: Session, step: int) -> bool:
    if not session.benchmarks:
        return False
    last = session.run.folder.evaluation / f"step_{step}" / f"{session.benchmarks[-1].name}.jsonl"
    return not run_on_main(last.exists, for_all=True)


def _answer_heldout(session: Session, step: int) -> None:
    """Answer the held-out prompts greedily, and record the result."""
    run, started = session.run, time.perf_counter()
    result = heldout.evaluate(run.config, session.engine, session.scorer, session.data.heldout)
    if run.is_reporting_rank:
        result.write(run.folder.evaluation / f"step_{step}.jsonl")
        run.writer.write(step, {**result.metrics(), "timing_s/evaluation": time.perf_counter() - started})
        low, high = result.interval("accuracy")
        logger.info(
            "held-out after step %d: accuracy %.3f [%.3f, %.3f], format %.3f, %d prompts",
            *(step, result.rate("accuracy"), low, high, result.rate("format"), len(result.items)),
        )


def _answer_benchmarks(session: Session, step: int) -> None:
    """Ask the benchmarks as `evaluation` says, and record the results."""
    run, started = session.run, time.perf_counter()
    target = run.folder.evaluation / f"step_{step}"
    metrics = evaluate_benchmarks(run.config, session.engine, session.benchmarks, target)
    if run.is_reporting_rank:
        run.writer.write(step, {**metrics, "timing_s/benchmarks": time.perf_counter() - started})

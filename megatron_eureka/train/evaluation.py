"""Evaluations during a run: held-out prompts and benchmarks, asked through the engines that train."""

from __future__ import annotations

import time

from megatron_eureka.evaluate.heldout import evaluate
from megatron_eureka.evaluate.periodic import evaluate_benchmarks
from megatron_eureka.log import logger
from megatron_eureka.parallel.main_rank import run_on_main
from megatron_eureka.train.session import Session, engine_turn


def evaluate_if(session: Session, step: int, due: bool) -> None:
    """Evaluate after `step` what has no result yet; a collective over the whole job."""
    if not due:
        return
    results = session.run.folder.evaluation

    def lacks(path):
        return not run_on_main(path.exists, for_all=True)

    if session.data.heldout and lacks(results / f"step_{step}.jsonl"):
        _answer_heldout(session, step)
    if session.benchmarks and lacks(results / f"step_{step}" / f"{session.benchmarks[-1].name}.jsonl"):
        _answer_benchmarks(session, step)


def _answer_heldout(session: Session, step: int) -> None:
    """Answer the held-out prompts greedily, and record the result."""
    run, started = session.run, time.perf_counter()
    with engine_turn(session):
        result = evaluate(run.config, session.engine, session.scorer, session.data.heldout)
    if run.is_main:
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
    with engine_turn(session):
        metrics = evaluate_benchmarks(run.config, session.engine, session.benchmarks, target)
    if run.is_main:
        run.writer.write(step, {**metrics, "timing_s/benchmarks": time.perf_counter() - started})

"""How many answers does the verifier pool score a second? Beside a bare loop over math-verify on the same answers.

    python tools/bench/rewards.py --json docs/measurements/rewards.json

Answers of eleven ordinary kinds, drawn with a seed: integers, decimals, fractions, roots, angles, choices, two
solutions, polynomials, lengths in a sentence, points, intervals; about a third right. A label has `--group` responses
as in GRPO, all distinct. Each repeat scores all of them with workers that have just started, so that no cache is warm,
and then runs the loop `verify(parse(label), parse(answer))` in this process, without time limits. Seconds of the pool
are wall-clock seconds of `VerifierPool.run` without the start of its processes.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import logging
import platform
import random
import statistics
import sys
import time
from pathlib import Path

from math_verify import parse, verify

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from megatron_eureka.answers import Question, read  # noqa: E402
from megatron_eureka.rewards.pool import VerifierPool  # noqa: E402
from tools.bench.convert_record import machine  # noqa: E402

PACKAGES = ("math-verify", "latex2sympy2-extended", "antlr4-python3-runtime", "sympy")
KINDS = {
    "integer": ("{a}", "${b}$"),
    "decimal": ("{a}.{c}", "{b}.{c}"),
    "fraction": (r"\frac{{{a}}}{{{c}}}", r"$\dfrac{{{b}}}{{{c}}}$"),
    "root": (r"{a}\sqrt{{{c}}}", r"${b}\sqrt{{{c}}}$"),
    "angle": ("{a}°", r"${b}^\circ$"),
    "choice": ("ABCD[{a}]", "Option ABCD[{b}]"),
    "solutions": ("{a},{c}", "$x={c}$ or $x={b}$"),
    "polynomial": ("x^2+{a}x+{c}", "$x^2+{c}+{b}x$"),
    "sentence": (r"{a}\text{{ cm}}", "The length is {b} cm."),
    "point": ("({a},{c})", "$({b}, {c})$"),
    "interval": (r"[{a},\infty)", r"$[{b}, +\infty)$"),
}


def make_pairs(number: int, group: int, seed: int) -> list[tuple[str, str]]:
    """(response, label) pairs; the responses are distinct."""
    rng = random.Random(seed)
    pairs = []
    for index in range(number):
        if index % group == 0:
            label_form, answer_form = KINDS[rng.choice(list(KINDS))]
            values = {"a": rng.randint(2, 999), "c": rng.randint(2, 99)}
        answer = answer_form.format(b=values["a"] + rng.choice((0, 1, 2)), **values)
        thought = f"Step {index}. " + "We look at the figure and use what is given. " * 20
        pairs.append(
            (f"<think> {thought}</think> <answer> {_letter(answer)} </answer>", _letter(label_form.format(**values)))
        )
    return pairs


def _letter(text: str) -> str:
    """`ABCD[n]` as one of the four letters."""
    before, mark, number = text.partition("ABCD[")
    return before + "ABCD"[int(number.rstrip("]")) % 4] if mark else text


def time_pool(pairs: list[tuple[str, str]], workers: int) -> tuple[float, float]:
    """Scores a second of fresh workers, and the share of right answers."""
    pool = VerifierPool(workers, 5.0)
    try:
        pool.run([("score_accuracy", ("8", "8"))] * workers)  # they have started
        start = time.perf_counter()
        outcomes = pool.run([("score_accuracy", pair) for pair in pairs])
        seconds = time.perf_counter() - start
    finally:
        pool.close()
    assert not any(pool.counters.values()), pool.counters
    return len(pairs) / seconds, statistics.fmean(outcome.value for outcome in outcomes)


def time_bare(pairs: list[tuple[str, str]]) -> tuple[float, float]:
    """The same of the loop."""
    start = time.perf_counter()
    right = [
        verify(
            parse(f"${label}$", parsing_timeout=None),
            parse(read(response, Question()).text, parsing_timeout=None),
            timeout_seconds=None,
        )
        for response, label in pairs
    ]
    return len(pairs) / (time.perf_counter() - start), statistics.fmean(right)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=2000, help="answers to score (default: %(default)s)")
    parser.add_argument("--group", type=int, default=8, help="responses to a label (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="verifier processes (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of both (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the answers (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for the record")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # math-verify warns that it has no time limit
    runs = []
    for repeat in range(options.repeats):
        pairs = make_pairs(options.answers, options.group, options.seed + repeat)
        (pool, right), (bare, bare_right) = time_pool(pairs, options.workers), time_bare(pairs)
        run = {"pool_per_s": pool, "bare_per_s": bare, "ratio": pool / bare, "right": right, "bare_right": bare_right}
        runs.append(run)
        print("  ".join(f"{name} {value:.3g}" for name, value in run.items()), flush=True)
    print("median ratio", statistics.median(run["ratio"] for run in runs))
    if options.json:
        options.json.write_text(json.dumps(record(options, runs), indent=1) + "\n", encoding="utf-8")


def record(options: argparse.Namespace, runs: list[dict]) -> dict:
    """The runs, with when, where and what with."""
    from tools.bench.gpu_check import commit  # here, because it loads transformers for seconds

    settings = {name: value for name, value in vars(options).items() if name != "json"}
    return {
        "command": "tools/bench/rewards.py " + " ".join(f"--{name} {value}" for name, value in settings.items()),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **commit(),
        "machine": machine(ROOT),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
        "runs": runs,
    }


if __name__ == "__main__":
    main()

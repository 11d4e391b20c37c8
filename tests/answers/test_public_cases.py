"""Public labels and answers to them, with a careful person's verdict; skipped where the files are not there."""

import csv
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from megatron_eureka.answers import Question, check_label, equal, question_of
from megatron_eureka.rewards.accuracy import judge_answer, score_accuracy

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases" / "answers"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason=f"{CASES} is not there")
# Of 450: a relation without its variable, and a formula of physics with its own symbols.
MAX_WRONG = 2
# Labels that are broken: nothing that a person would write equals them.
MAX_UNSATISFIABLE = 0.02


def rows(name):
    with open(CASES / name, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            yield {key: _unescaped(value) for key, value in row.items()}


def _unescaped(text):
    return text.replace("\\\\", "\0").replace("\\n", "\n").replace("\0", "\\")


def test_pairs():
    wrong = []
    for row in rows("pairs_fail.tsv"):
        response, right = f"<think> x </think> <answer> {row['answer']} </answer>", row["expected"] == "1"
        reward = bool(score_accuracy(response, row["label"]))
        benchmark = judge_answer(response, [row["label"]], asdict(Question()))[1]
        assert reward == benchmark, row
        wrong += [row] if reward != right else []
    assert len(wrong) <= MAX_WRONG, wrong


def test_labels_are_right_answers_to_themselves():
    with open(CASES / "k12_labels.jsonl", encoding="utf-8") as file:
        labels = [json.loads(line)["answer"] for line in file]
    bad = [label for label in labels if check_label(label) is not None]
    assert len(bad) <= MAX_UNSATISFIABLE * len(labels), bad
    for label in set(labels) - set(bad):
        for answer in (label, f"\\boxed{{{label}}}"):
            assert equal(answer, label, question_of(label)), (label, answer)

"""Labels in tags and boxes: one reading for converting, checking, training, evaluation; and what rewards make of it."""

import json
from pathlib import Path

import pytest

from megatron_eureka.data.bad_row import BadRow
from megatron_eureka.data.labels import bare_label, final_answer
from megatron_eureka.datasets.benchmarks import load_benchmark
from megatron_eureka.datasets.convert import Conversion, convert
from megatron_eureka.rewards.accuracy import score_accuracy

CASES = Path(__file__).resolve().parents[2] / ".." / "shared" / "cases"


@pytest.mark.parametrize(
    "label, bare",
    [
        ("<answer> B </answer>", "B"),
        ("<answer>12</answer>", "12"),
        ("<Answer>\nyes\n</ANSWER>\n", "yes"),
        ("<think>4 + 8 = 12</think>\n<answer>12</answer>", "12"),
        (r"\boxed{5}", "5"),
        (r"$\boxed{\frac{1}{2}}$", r"\frac{1}{2}"),
        (r"\[\boxed{x^{2}}\].", "x^{2}"),
        (r"$$ \fbox {red} $$", "red"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"<answer> $\boxed{3}$ </answer>", "3"),
        (r"\boxed{<answer>3</answer>}", "3"),
        # as they are
        ("5", "5"),
        (" 5 ", " 5 "),
        (r"\boxed{1} or \boxed{2}", r"\boxed{1} or \boxed{2}"),
        (r"x = \boxed{2}", r"x = \boxed{2}"),
        (r"\boxed{2", r"\boxed{2"),
        ("", ""),
        ("<answer></answer>", ""),
    ],
)
def test_what_a_response_wraps_its_answer_in_is_taken_off(label, bare):
    assert bare_label(label) == bare
    assert bare_label(bare) == bare  # once or twice is the same


@pytest.mark.parametrize(
    "label", ["<answer>5", "5</answer>", "</answer>5<answer>", "<answer>1</answer> <answer>2</answer>"]
)
def test_tags_that_are_no_pair_are_refused(label):
    with pytest.raises(BadRow, match="in one pair of <answer> tags, got ") as error:
        bare_label(label)
    assert error.value.kind == "answer"


@pytest.mark.parametrize(
    "text, answer",
    [
        ("<think>2*3</think><answer>6</answer>", "6"),
        (r"First \boxed{2}, so the area is \boxed{\frac{1}{2}} cm.", r"\frac{1}{2}"),
        ("6", "6"),
        (" x = 3 ", "x = 3"),
        ("The area is the product of both sides, and these are two and three, so it is six.", None),
        ("2 * 3 = 6\nso 6", None),
        (r"so \boxed{2", None),
    ],
)
def test_the_answer_of_a_solution(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    "label, response, wrong",
    [
        ("<answer> B </answer>", "<think>x</think><answer>B</answer>", "<think>x</think><answer>A</answer>"),
        ("<answer> 145° </answer>", "<answer>145</answer>", "<answer>144</answer>"),
        ("<answer> yes </answer>", "<answer>Yes.</answer>", "<answer>no</answer>"),
        (r"\boxed{\text{red}}", "<answer>red</answer>", "<answer>blue</answer>"),
    ],
)
def test_right_answers_to_wrapped_labels_score_1(label, response, wrong):
    assert score_accuracy(response, bare_label(label)) == 1.0
    assert score_accuracy(wrong, bare_label(label)) == 0.0


def test_evaluation_in_the_training_format_reads_labels_as_training_does(tmp_path):
    turn = [{"role": "user", "content": "How many?"}]
    lines = [{"id": "a", "message": turn, "answer": "<answer> 12 </answer>"}]
    lines += [{"id": "b", "message": turn, "answer": "<answer>12"}]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, lines)))
    benchmark = load_benchmark("jsonl", tmp_path / "test.jsonl", None)
    assert [(item.id, item.gold) for item in benchmark.items] == [("a", ("12",))]


def test_r1v_sets_are_converted_with_bare_labels(tmp_path):
    source = CASES / "answer_tags" / "r1v.parquet"
    if not source.exists():
        pytest.skip(f"{source} is not here")
    assert convert([source], Conversion(tmp_path / "train.jsonl", tmp_path / "images")) == {"written": 3}
    records = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert [record["answer"] for record in records] == ["B", "12", "yes"]

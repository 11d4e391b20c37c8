"""Accuracy on the cases that matter in practice, ours and MM-EUREKA's side by side."""

import pytest

from megatron_eureka.rewards.accuracy import check_label, label_kind, score_accuracy

# label, response, ours, theirs; the last column is what MM-EUREKA's own function gives with math-verify 0.9.0.
CASES = [
    ("3", "<answer>$3$</answer>", 1, 1),
    ("3", r"so \boxed{3}", 1, 1),  # without tags
    ("3", "<answer>$x=3$</answer>", 1, 1),
    ("5", r"<answer>$5\text{ cm}$</answer>", 1, 1),
    (r"\frac83", "<answer> 8/3 </answer>", 1, 1),
    (r"\frac83", "<answer> 2.667 </answer>", 0, 0),
    ("30°", "<answer>$30$</answer>", 1, 1),
    ("50%", "<answer> 0.5 </answer>", 1, 1),
    ("1,2", "<answer>$2,1$</answer>", 1, 1),
    ("37 20", "<answer>$37, 20$</answer>", 1, 0),  # two blanks
    ("3", "<answer>$3$ or $5$</answer>", 0, 0),
    ("8", "<think> 3 and 5 </think><answer> 8 </answer>", 1, 1),
    ("8", "<think> 3 and 5 </think><answer> 2 </answer>", 0, 0),
    ("8", "", 0, 0),
    ("$8$", "<answer>$8$</answer>", 1, 1),
    # Gold is the first argument of math-verify, which takes an interval for an inequality only then; theirs swaps.
    (r"x \geq 2", r"<answer>$[2,\infty)$</answer>", 1, 0),
    # An older math-verify, which their results used, read the gold as 5 x c x m.
    ("5 cm", "<answer>$5$</answer>", 1, 1),
    # An unparseable gold: theirs pays anything.
    ("", "<answer>$3$</answer>", 0, 1),
    ("a\nb", "<answer>$3$</answer>", 0, 1),
    # Choice letters: theirs matches a-d as substrings.
    ("A", "<answer> Aim </answer>", 0, 1),
    ("c", "<answer> circle </answer>", 0, 1),
    ("A", "<answer> A </answer>", 1, 1),
    ("A", "<answer> (A) </answer>", 1, 1),
    ("B", "<answer> B. 12 cm </answer>", 1, 0),  # "cm" holds a c
    ("B", "<answer> **B** </answer>", 1, 1),
    ("B", r"<answer>$\boxed{\text{B}}$</answer>", 1, 1),
    ("B", "<answer> The answer is B </answer>", 1, 1),
    ("B", "<answer> A </answer>", 0, 0),
    ("B", "<answer> B or C </answer>", 0, 1),  # their string extractor takes the last letter it likes
    ("A", "<answer> A circle </answer>", 0, 1),  # an article
    ("C", "<answer> 5 C </answer>", 0, 1),  # a unit
    ("E", "<answer> E </answer>", 1, 0),  # theirs ends at D
    ("J", "<answer> option (J) </answer>", 1, 0),
    ("b", "<answer> (B) </answer>", 1, 1),
    # Words: theirs never matches them.
    ("yes", "<answer> Yes. </answer>", 1, 0),
    ("yes", "<answer> no </answer>", 0, 0),
    ("isosceles triangle", "<answer> isosceles  Triangle </answer>", 1, 0),
    ("isosceles triangle", r"<answer>$\text{isosceles triangle}$</answer>", 1, 0),
    ("isosceles triangle", "<answer> triangle </answer>", 0, 0),
    # Tags over several lines: theirs then reads the whole rest, tags included.
    ("yes", "<answer>\nyes\n</answer>", 1, 0),
    # Text equality must not blur numbers.
    ("5", "<answer> .5 </answer>", 0, 0),
    ("-5", "<answer> 5 </answer>", 0, 0),
    ("x^2", "<answer>$x^2$</answer>", 1, 1),
    ("x^2+2x+1", "<answer>$(x+1)^2$</answer>", 1, 1),
]


@pytest.mark.parametrize("label, response, ours, theirs", CASES)
def test_scores(label, response, ours, theirs):
    assert score_accuracy(response, label) == ours
    assert score_accuracy(response, label, "mm_eureka") == theirs


@pytest.mark.parametrize(
    "label", ["3", r"\frac{1}{2}", "$5$", "A", "(C)", "yes", "isosceles triangle", "30°", "37 20", "等腰三角形", "1,2"]
)
def test_labels_that_can_be_verified(label):
    assert check_label(label) is None


@pytest.mark.parametrize("label, part", [("", "empty"), (" $$ ", "empty"), (".", "empty"), (r"\frac{", "cannot parse")])
def test_labels_that_cannot_be_verified(label, part):
    assert part in check_label(label)
    assert check_label(label, "mm_eureka") is None  # there it pays


@pytest.mark.parametrize(
    "label, kind",
    [
        *(("3", "number"), ("-3.5", "number"), ("3/4", "number"), (r"\frac{1}{2}", "number"), ("(1,2)", "number")),
        *(("A", "choice"), ("(C)", "choice"), ("A,C", "choice"), ("yes", "words"), ("isosceles triangle", "words")),
        *((r"\sqrt{2}", "mathematics"), ("x>2", "mathematics"), ("5 cm", "mathematics"), ("", "text"), ("?!", "text")),
    ],
)
def test_kinds_of_labels(label, kind):
    assert label_kind(label) == kind

"""What counts as right, kind by kind: each case is a question, a response and the verdict."""

from dataclasses import replace

import pytest

from megatron_eureka.answers import question_of
from megatron_eureka.answers.several import one_to_one
from megatron_eureka.evaluate.scoring import AnswerScorer
from megatron_eureka.rewards.accuracy import score_accuracy
from tests.evaluate.items import item

FRUIT = ("apple", "green pear", "pear", "plum")
LENGTHS = ("3 cm", "4 cm", "12 cm", "$\\frac{1}{2}$ cm")
POINTS = item("B", "choice", choices=("P", "Q", "R"))
PEAR = item("C", "choice", choices=FRUIT)
TWELVE = item("C", "choice", choices=LENGTHS)
LETTER = item("D", "choice")
ANGLES = ("40°", "60°", "120°", "140°")
ROOTS = ("$3 \\sqrt { 3 }$", "6 \\sqrt { 3 }", "$6\\sqrt{2}$", "9")
AREAS = ("4\\pi", "$8\\pi$", "16\\pi", "8")
PLACES = ("(1,2)", "(2,1)", "(-2,1)")
LINES = ("y=x+2", "y=2x", "y=-2x")
SIGNED = ("3", "-3", "1.3")


def of(letter, choices=()):
    return item(letter, "choice", choices=choices)


CHOICE = [
    (PEAR, "<answer>C</answer>", True),
    (PEAR, "<answer> (C) </answer>", True),
    (PEAR, "<answer>$\\text{C}$</answer>", True),
    (PEAR, "<answer>c</answer>", True),
    (PEAR, "<answer>B</answer>", False),
    (PEAR, "<answer>C. pear</answer>", True),
    (PEAR, "<answer>pear</answer>", True),  # not the green pear, though it is part of that text
    (PEAR, "<answer>The pear.</answer>", True),
    (PEAR, "<answer>green pear</answer>", False),
    (PEAR, "<answer>It is a green pear, I think</answer>", False),  # the longer option holds the shorter one
    (item("B", "choice", choices=FRUIT), "<answer>It is a green pear, I think</answer>", True),
    (PEAR, "<answer>a cherry</answer>", False),  # no option is like it: never the nearest one
    (PEAR, "<answer>B or C</answer>", False),
    (PEAR, "<answer>F</answer>", False),  # beyond the options
    (PEAR, "<think>A or B?</think> So the answer is C.", True),
    (PEAR, "Therefore, the correct option is (C)", True),
    (PEAR, "I would say \\boxed{C}", True),
    (PEAR, "I would say \\boxed{\\text{(C) pear}}", True),
    (PEAR, "", False),
    (TWELVE, "<answer>12</answer>", True),  # the number of exactly one option
    (TWELVE, "<answer>12 cm</answer>", True),
    (TWELVE, "<answer>120 mm</answer>", True),
    (TWELVE, "<answer>1.2 cm</answer>", False),
    (item("D", "choice", choices=LENGTHS), "<answer>0.5 cm</answer>", True),
    (POINTS, "<answer>Q</answer>", True),
    (POINTS, "<answer>B</answer>", True),
    (item("A", "choice", choices=("isosceles", "scalene")), "<answer>isoceles</answer>", True),  # a typing error
    (item("A", "choice", choices=("2019", "2018")), "<answer>2017</answer>", False),  # a figure is none
    (LETTER, "<answer>D</answer>", True),  # options in the question's text
    (LETTER, "the answer is: **D**", True),
    (LETTER, "A or B, no, (D)", True),  # the last one without tags
    (LETTER, "<answer>A circle</answer>", False),
    (LETTER, "So we get\n\nD", True),
    (LETTER, "So we get\n\n**D**\n", True),
    (LETTER, "The correct option is D", True),
    (of("A", ("hexagon", "square")), "<answer>pentagon</answer>", False),  # like it, but no typing error
    # a letter that names a part of the figure
    *((of(letter, ANGLES), "Therefore ∠C = 40°", letter == "A") for letter in "AC"),
    *((of(letter, ANGLES), "<answer>angle C is 140°</answer>", letter == "D") for letter in "CD"),
    *((of(letter, ANGLES), "So the measure of $\\angle C$ is 60°.", letter == "B") for letter in "BC"),
    *((of(letter, ("20", "30", "40", "50")), "Thus the length of D = 40.", letter == "C") for letter in "CD"),
    (of("C"), "x = 2, C = 3", False),
    (of("C", ("1", "2", "4")), "x = 2, C = 3", False),
    (LETTER, "Point D.", False),
    (LETTER, "It lies on circle D", False),
    (LETTER, "It joins points B and D", False),
    (LETTER, "the way from C to D", False),
    (LETTER, "the vertex D (3, -2)", False),
    (of("C"), "It is 20 °C", False),
    (of("C", ANGLES), "<answer>∠C</answer>", False),
    (of("C", ANGLES), "∠A is 120°, so the answer is C", True),
    (of("C", ANGLES), "<answer>C 120°</answer>", True),
    *((of(letter, ANGLES), "<answer>D is 60°</answer>", letter == "B") for letter in "BD"),
    (of("C", ANGLES), "The answer is C since angle B = 60°", True),
    (of("C", ANGLES), "C: the angle B is 120°", True),
    # Chinese
    *(
        (of("C"), text, True)
        for text in ("选C", "故选C", "故选：C。", "本题选C", "C项正确", "C选项", "答案选C", "选择C")
    ),
    *((of("C"), f"<answer>{text}</answer>", True) for text in ("选C", "故选C", "C项正确", "C选项", "答案选C", "选项C")),
    (of("A"), "<answer>A项正确</answer>", True),
    (of("C"), "因为∠B=60°，所以∠A+∠C=120°，而且三角形的内角和是180°。故选C，理由如上。", True),
    (of("C"), "B选项错误", False),
    (of("B"), "B选项正确，而C选项错误", True),
    (of("C"), "不选C", False),
    (of("B"), "在点B", False),
    (of("C"), "设AC的长度是3", False),
    # options that are formulas
    *((of(letter, ROOTS), "<answer>$6\\sqrt{3}$</answer>", letter == "B") for letter in "AB"),
    (of("B", ROOTS), "<answer>The side is $6\\sqrt{3}$ long</answer>", True),
    (of("B", ROOTS), "<answer>$\\sqrt{108}$</answer>", True),
    (of("A", ROOTS), "<answer>$\\sqrt{3}$</answer>", False),
    (of("B", ROOTS), "<answer>6√3</answer>", True),
    (of("B", AREAS), "<answer>8π</answer>", True),
    (of("D", AREAS), "<answer>8π</answer>", False),
    (of("B", AREAS), "<answer>the area is 8π</answer>", True),
    (of("B", AREAS), "<answer>$2^3\\pi$</answer>", True),
    *((of(letter, PLACES), "<answer>(2, 1)</answer>", letter == "B") for letter in "BC"),
    *((of(letter, PLACES), "<answer>The point is (-2, 1)</answer>", letter == "C") for letter in "BC"),
    (of("B", LINES), "<answer>$y = 2x$</answer>", True),
    (of("B", LINES), "<answer>$2x = y$</answer>", True),
    (of("B", LINES), "<answer>$y = 3x$</answer>", False),
    (of("A", ("2x", "x+x")), "<answer>$3x - x$</answer>", False),  # equal to two options
    *((of(letter, SIGNED), "<answer>so x is -3</answer>", letter == "B") for letter in "AB"),
    (of("A", ("3", "6")), "<answer>so x is -3</answer>", False),
    (of("A", ("3", "6")), "<answer>x is 1.3 or so</answer>", False),
    # cut off while it speaks of a point D of the figure
    (LETTER, "<think> The line from C to D is as long as the one from A to B, and the angle at D", False),
    (PEAR, "<think> There is a pear in the image" + ", and another fruit that I cannot name" * 5, False),
]

INTEGER = item("14", "integer")
FLOAT = item("2.35", "float", precision=2)
ROUND = item("3.1", "float", precision=1)
METRES = item("5", "integer", unit="m")
NUMBERS = [
    (INTEGER, "<answer>14</answer>", True),
    (INTEGER, "<answer>14.0</answer>", True),
    (INTEGER, "<answer>14.7</answer>", False),  # not cut off
    (INTEGER, "<answer>-14</answer>", False),
    (INTEGER, "<answer>x = 14</answer>", True),
    (INTEGER, "<answer>$14$ apples</answer>", True),
    (INTEGER, "<answer>14x</answer>", False),
    (INTEGER, "<answer>14 or 15</answer>", False),
    (INTEGER, "<answer>28/2</answer>", True),
    (INTEGER, "<answer>There are 14 of them in the box.</answer>", True),  # the only number of a sentence
    (INTEGER, "<answer>The 3 rows have 14</answer>", False),
    (INTEGER, "<answer>It is 14x</answer>", False),
    (INTEGER, "<answer>It is x^14</answer>", False),
    (INTEGER, "there are 3 rows, so 14", True),
    (INTEGER, "there are 14 in 3 rows", False),  # the last number counts
    (item("1234", "integer"), "<answer>1,234</answer>", True),
    (item("-7", "integer"), "<answer>−7</answer>", True),
    (item("60", "integer"), "<answer>$60^\\circ$</answer>", True),
    (FLOAT, "<answer>2.35</answer>", True),
    (FLOAT, "<answer>2.349</answer>", True),  # rounds to 2.35
    (FLOAT, "<answer>2.34</answer>", False),
    (FLOAT, "<answer>2.4</answer>", False),  # less than was asked for
    (FLOAT, "<answer>\\frac{47}{20}</answer>", True),
    (FLOAT, "<answer>about two</answer>", False),
    (ROUND, "<answer>3.14</answer>", True),
    (ROUND, "<answer>3.2</answer>", False),
    (item("0.5", "float", precision=2), "<answer>50%</answer>", True),
    (item("0.5", "float", precision=2), "<answer>50</answer>", False),  # without the sign it is fifty
    # formulas are computed
    (item("1.41", "float", precision=2), "<answer>$\\sqrt{2}$</answer>", True),
    (item("1.41", "float", precision=2), "<answer>$\\sqrt{3}$</answer>", False),
    (item("1.41", "float", precision=2), "<answer>x = √2 cm</answer>", True),
    (item("1.41", "float", precision=2), "<answer>$x = \\sqrt{2} \\approx 1.41$</answer>", True),
    (ROUND, "<answer>\\pi</answer>", True),
    (ROUND, "<answer>π</answer>", True),
    (ROUND, "<answer>The area is $\\pi$.</answer>", True),
    (ROUND, "<answer>2π</answer>", False),
    (item("2.0", "float", precision=1), "<answer>$\\sqrt{2}$</answer>", False),  # 2 is no number of that answer
    (item("2.0", "float", precision=1), "<answer>The area is 2π</answer>", False),
    (item("1.4142", "float", precision=2), "<answer>$\\sqrt{2}$</answer>", True),
    (item("17.32", "float", precision=2, unit="cm"), "<answer>$10\\sqrt{3}\\text{ cm}$</answer>", True),
    (item("17.32", "float", precision=2, unit="cm"), "<answer>$10\\sqrt{3}\\text{ mm}$</answer>", False),
    (INTEGER, "<answer>$\\sqrt{196}$</answer>", True),
    (INTEGER, "<answer>$\\sqrt{14}$</answer>", False),
    # rounding: a last 5 goes up, or to the even neighbour, whatever its binary form is
    (item("2.68", "float", precision=2), "<answer>2.675</answer>", True),
    (item("1.3", "float", precision=1), "<answer>1.25</answer>", True),
    (item("1.2", "float", precision=1), "<answer>1.25</answer>", True),
    (item("-1.3", "float", precision=1), "<answer>-1.25</answer>", True),
    (item("1.3", "float", precision=1), "<answer>1.249</answer>", False),
    (item("2.68", "float", precision=2, unit="m"), "<answer>267.5 cm</answer>", True),
    (item("1" + "0" * 40, "float", precision=1), "<answer>1e40</answer>", True),
    # words around numbers
    (item("12345", "integer"), "<answer>12 345</answer>", True),
    (item("12345", "integer"), "<answer>There are 12 345 of them</answer>", True),
    (item("345", "integer"), "<answer>12 345</answer>", False),
    (item("-3", "integer"), "<answer>negative 3</answer>", True),
    (item("-3", "integer"), "<answer>It is minus 3.</answer>", True),
    (item("3", "integer"), "<answer>It is negative 3</answer>", False),
    (item("3", "integer"), "<answer>5 minus 3</answer>", False),
    (item("4", "integer"), "<answer>4 out of 8</answer>", True),
    (item("12345", "integer"), "So there are 12 345 of them", True),
    (item("345", "integer"), "So there are 12 345 of them", False),
    (item("-3", "integer"), "So it is negative 3.", True),
    (item("3", "integer"), "So it is 5 minus 3, which", False),
    (item("4", "integer"), "That makes 4 out of 8.", True),
    (item("8", "integer"), "That makes 4 out of 8.", False),
    (item("4", "integer"), "<answer>4 bars out of the 8</answer>", True),
    (item("8", "integer"), "<answer>4 out of 8</answer>", False),
    (item("3.048", "float", precision=3, unit="m"), "<answer>10 ft</answer>", True),
    (item("3", "float", precision=0, unit="ft"), "<answer>36 in</answer>", True),
    (METRES, "<answer>5 m</answer>", True),
    (METRES, "<answer>5</answer>", True),
    (METRES, "<answer>500 cm</answer>", True),
    (METRES, "<answer>5 cm</answer>", False),
    (METRES, "<answer>It is 500 cm wide.</answer>", True),
    (METRES, "<answer>It is 5 cm wide.</answer>", False),
    (METRES, "<answer>5 m^2</answer>", False),
    (METRES, "<answer>5 metres</answer>", True),
    (item("36", "float", precision=0, unit="km/h"), "<answer>10 m/s</answer>", True),
    (item("2", "integer", unit="$m^2$"), "<answer>20000 cm^2</answer>", True),
]

WORDS = [
    (item("yes", "text"), "<answer>Yes.</answer>", True),
    (item("yes", "text"), "<answer>no</answer>", False),
    (item("Red", "text"), "<answer>the red</answer>", True),
    (item("Red", "text"), "The answer is **red**.", True),
    (item("3:15", "text"), "<answer>3:15</answer>", True),
    (item("3:15", "text"), "<answer>15:3</answer>", False),
    (item("12", "text"), "<answer>12.0</answer>", True),
    (item("[1, 2, 3]", "list"), "<answer>[1, 2, 3]</answer>", True),
    (item("[1, 2, 3]", "list"), "<answer>1, 2, 3</answer>", True),
    (item("[1, 2, 3]", "list"), "<answer>[3, 2, 1]</answer>", False),  # in order
    (item("[1, 2, 3]", "list"), "<answer>[1, 2]</answer>", False),
    (item("[0.5, 2]", "list"), "first [9, 9], then [0.50, 2.0].", True),
    (item("[0.5, 2]", "list"), "<answer>[1/2, 2]</answer>", True),
    (item("[0.5, 2]", "list"), "<answer>$[\\frac{1}{2}, 2]$</answer>", True),
    (item("[1, 2, 2]", "list"), "<answer>[1/2, 2]</answer>", False),
    (item("[1, 2, 3]", "list"), "<answer>1, 2 and 3</answer>", True),
    (item("[red, blue]", "list"), "<answer>[red, blue]</answer>", True),
    (item("[red, blue]", "list"), "<answer>[blue]</answer>", False),
]

MATH = [
    (item("\\frac{1}{2}", "free"), "<answer>$0.5$</answer>", True),
    (item("2\\sqrt{3}", "free"), "<answer>$\\sqrt{12}$</answer>", True),
    (item("2\\sqrt{3}", "free"), "<answer>3.46</answer>", False),
    (item("2.83", "free"), "<answer>$2\\sqrt{2}$</answer>", True),  # the gold is rounded, to two decimals
    (item("2.83", "free"), "<answer>2.86</answer>", False),
    (item("2.83", "free"), "<answer>$\\sqrt{8.2}$</answer>", False),  # 2.864
    (item("$(3,-2)$", "free"), "so it is at\n(3, -2)", True),
    (item("-2", "free"), "so it is at\n(3, -2)", False),
    (item("3:4", "free"), "The ratio is 3:4", True),
    (item("4", "free"), "The ratio is 3:4", False),
    (item("$x \\geq 2$", "free"), "x ≥ 2", True),
    (item("2", "free"), "x ≥ 2", False),
    (item("2.5", "free"), "<answer>2.53</answer>", False),  # one decimal is exact
    (item("x^2-1", "free"), "<answer>$(x-1)(x+1)$</answer>", True),
    (item("2a", "free"), "<answer>2</answer>", False),
    (item("5 cm", "free"), "<answer>5</answer>", True),
    (item("5 cm", "free"), "<answer>50 mm</answer>", True),
    (item("5 cm", "free"), "<answer>5 kg</answer>", False),
    (item("$\\frac{3}{4}$", "free", tolerances=(1e-2,)), "<answer>0.755</answer>", True),
    (item("$\\frac{3}{4}$", "free", tolerances=(1e-2,)), "<answer>0.77</answer>", False),
    (item("$3\\pi$", "free", tolerances=(1e-2,)), "So \\boxed{9.42}", True),
    (item("$y=2x+1$", "free"), "\\boxed{2y - 4x = 2}", True),
    (item("$y=2x+1$", "free"), "\\boxed{y = 2x}", False),
    (item("$(1,2)$", "free"), "\\boxed{(1, 2)}", True),
    (item("$(1,2)$", "free"), "\\boxed{(2, 1)}", False),
    (item("$[0,1)$", "free"), "\\boxed{[0,1)}", True),
    (item("$[0,1)$", "free"), "\\boxed{[0,1]}", False),
    (item("isosceles triangle", "free"), "<answer>an isosceles triangle</answer>", True),
]

PAIR = item(("1", "2"), "several")
NEAR = item(("1.0", "1.1"), "several", tolerances=(0.15, 0.02))
ANSWERS = [
    (PAIR, "<answer>1, 2</answer>", True),
    (PAIR, "<answer>2, 1</answer>", True),  # in any order
    (PAIR, "<answer>1 and 2</answer>", True),
    (PAIR, "<answer>$x=1$ or $x=2$</answer>", True),
    (PAIR, "<answer>{1, 2}</answer>", True),
    (PAIR, "<answer>1</answer>", False),
    (PAIR, "<answer>1, 1</answer>", False),  # each gold once
    (PAIR, "<answer>1, 2, 3</answer>", False),
    (PAIR, "<answer>1, 2, 2</answer>", False),
    (PAIR, "either \\boxed{1} or \\boxed{2}", True),
    (item(("$\\sqrt{2}$", "$-\\sqrt{2}$"), "several"), "<answer>$\\pm\\sqrt{2}$</answer>", True),
    (item(("(1,2)", "(3,4)"), "several"), "<answer>$(3,4), (1,2)$</answer>", True),
    (item(("(1,2)", "(3,4)"), "several"), "<answer>$(1,3), (2,4)$</answer>", False),
    (item(("\\frac{1}{2}", "3"), "several"), "<answer>$3, 0.5$</answer>", True),
    (NEAR, "<answer>1.1, 1.1</answer>", True),  # 1.1 equals both: the pairing has to be found
    (NEAR, "<answer>1.0, 1.0</answer>", False),
]


def trained(label):
    """A question as it stands in training, of which the label is known."""
    return replace(item(label, "free"), question=question_of(label), as_trained=True)


TRAINED = [
    (trained("8"), "<think> 3 and 5 </think><answer> 8 </answer>", True),
    (trained("8"), "<think> 3 and 5 </think><answer> 2 </answer>", False),
    (trained("B"), "<answer> B. 12 cm </answer>", True),
    (trained("\\frac83"), "<answer> 8/3 </answer>", True),
    (trained("3"), "<think> so x = $3$", False),  # a thought that was cut off
    (trained("4"), "<answer>3</answer> wait <answer>4</answer>", True),  # the last one
    (trained("3"), "<answer>3</answer> wait <answer>4</answer>", False),
    (trained("3"), "", False),
]


@pytest.fixture(scope="module")
def scorer():
    with AnswerScorer(workers=1) as scorer:
        yield scorer


@pytest.mark.parametrize("cases", [CHOICE, NUMBERS, WORDS, MATH, ANSWERS, TRAINED])
def test_verdicts(scorer, cases):
    verdicts = scorer.score([(question, response) for question, response, _ in cases])
    wrong = [
        (question.gold, response, verdict)
        for (question, response, expected), verdict in zip(cases, verdicts, strict=True)
        if verdict.correct != expected
    ]
    assert not wrong
    assert scorer.counters == {"timeouts": 0, "errors": 0}


def test_what_was_taken_for_the_answer_is_told(scorer):
    (verdict,) = scorer.score([(INTEGER, "<think> 7 + 7 </think> The answer is 14 apples.")])
    assert (verdict.extracted, verdict.correct) == ("14 apples", True)


def test_of_the_training_format_the_reward_decides_and_what_it_looks_at_is_told(scorer):
    responses = [response for _, response, _ in TRAINED]
    verdicts = scorer.score([(question, response) for question, response, _ in TRAINED])
    labels = [question.gold[0] for question, _, _ in TRAINED]
    rewards = [score_accuracy(response, label) for response, label in zip(responses, labels, strict=True)]
    assert [float(verdict.correct) for verdict in verdicts] == rewards
    assert [verdict.extracted for verdict in verdicts[-4:]] == ["", "4", "4", ""]


def test_a_formula_that_cannot_be_computed_is_wrong_and_counted():
    with AnswerScorer(workers=1, timeout_s=1.0) as scorer:
        questions = [item("7", "free"), item("7", "free")]
        endless = "<answer>$\\sum_{n=1}^{10^{12}} n^{n}$</answer>"
        verdicts = scorer.score(list(zip(questions, [endless, "\\boxed{7}"], strict=True)))
        assert [verdict.correct for verdict in verdicts] == [False, True]
        assert scorer.counters == {"timeouts": 1, "errors": 0}


@pytest.mark.parametrize(
    ("equal", "expected"),
    [
        ([[True]], True),
        ([[False]], False),
        ([[True, True], [True, False]], True),
        ([[True, True], [False, False]], False),
        ([[True, True, False], [True, False, False], [False, True, True]], True),
        ([[True, False, False], [True, False, False], [True, True, True]], False),
    ],
)
def test_pairing(equal, expected):
    assert one_to_one(equal) is expected

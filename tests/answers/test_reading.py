"""What counts as the answer of a response, and that no response takes long or raises."""

import time
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_eureka.answers import KINDS, Question, question_of, read
from megatron_eureka.answers.choices import chosen_letter
from megatron_eureka.answers.notation import bare, boxed, normal
from megatron_eureka.answers.quantities import parse_quantity, parse_unit
from megatron_eureka.answers.reading import MAX_CHARS
from megatron_eureka.answers.several import answer_parts, blanks, split_answers, statement_numbers
from megatron_eureka.answers.words import folded
from megatron_eureka.rewards.accuracy import judge_answer, score_accuracy


@pytest.mark.parametrize(
    ("response", "kind", "text", "how"),
    [
        ("<think> a </think><answer> 5 </answer>", "free", "5", "tag"),
        ("<answer>1</answer> no: <answer>2</answer>", "free", "2", "tag"),  # the last one
        ("<answer>5", "free", "5", "tag"),  # cut off inside
        ("<answer></answer> so the answer is 7", "free", "7", "phrase"),
        ("<answer> $x = \\boxed{5}$ </answer>", "free", "5", "boxed"),
        ("<answer>The answer is 5 cm.</answer>", "free", "5 cm", "phrase"),
        ("\\boxed{1}, then \\boxed{\\frac{1}{2}}", "free", "\\frac{1}{2}", "boxed"),
        ("\\boxed{1} and \\boxed{2} and \\boxed{1}", "several", "1, 2", "boxed"),
        ("<think> \\boxed{1} </think> so 3", "integer", "3", "number"),  # thoughts do not count
        ("The answer is 1. No. Final answer: **3.5**\nBye", "float", "3.5**", "phrase"),
        ("所以答案是 12。", "integer", "12", "phrase"),
        ("perhaps (A), rather (C)", "choice", "C", "option"),
        ("so we get\n$x^2$ or even $y^2$", "free", "y^2", "formula"),
        ("so we get\n(3, -2)", "free", "(3, -2)", "formula"),  # not its last number
        ("The point is [0, 1).", "free", "[0, 1)", "formula"),
        ("The ratio is 3:4.", "free", "3:4", "formula"),
        ("x ≥ 2", "free", "x ≥ 2", "formula"),
        ("so we get 2x + 1", "free", "2x + 1", "formula"),
        ("所以 x ≥ 2。", "free", "x ≥ 2", "formula"),
        ("so \\(x = \\frac{1}{2}\\).", "free", "\\(x = \\frac{1}{2}\\)", "formula"),
        ("there are 3 rows, so -14", "free", "-14", "number"),
        ("so x = 2 · 3 + 8 = 14", "free", "14", "formula"),
        ("x = 3, y = -2", "free", "x = 3, y = -2", "formula"),
        ("x = 5 (since x > 0).", "free", "5", "formula"),
        ("- 14", "free", "14", "number"),
        ("Step 3: 14", "free", "14", "number"),
        ("It is 12 cm long (see above", "free", "12", "number"),
        ("Therefore ∠C = 40°", "choice", "Therefore ∠C = 40°", "line"),  # no option, but an angle
        ("Point D.", "choice", "Point D.", "line"),
        ("所以本题选C，因为它最大。", "choice", "C，因为它最大", "phrase"),
        ("first\nblue\n\n", "text", "blue", "line"),
        ("<think> first 3, then 14", "integer", "", "none"),  # cut off inside a thought
        ("<think> so the answer is 14", "integer", "", "none"),
        ("", "free", "", "none"),
        ("  \n ", "text", "", "none"),
    ],
)
def test_extraction(response, kind, text, how):
    answer = read(response, Question(kind))
    assert (answer.text, answer.how, answer.kind) == (text, how, kind)


@pytest.mark.parametrize(
    ("text", "contents"),
    [
        ("\\boxed{a{b}c}", ["a{b}c"]),
        ("\\boxed {5} \\fbox{6}", ["5", "6"]),
        ("\\boxed{\\boxed{5}}", ["\\boxed{5}"]),
        ("\\boxed{5", []),
        ("\\boxed{} \\boxed", []),
    ],
)
def test_boxes(text, contents):
    assert boxed(text) == contents


HOSTILE = [
    "\\boxed{" * 150_000,
    "{" * 1_000_000,
    "\\boxed{" + "{}" * 500_000 + "}",
    "answer" * 170_000,
    "answer is " * 100_000,
    "answer" + " " * 1_000_000,
    "answer" + "*" * 1_000_000 + ":",
    "<answer>" * 120_000,
    "<answer>" + "\\text{" * 160_000 + "</answer>",
    "<answer>" + "1," * 500_000 + "</answer>",
    "<answer>" + "\\text {" + " " * 1_000_000 + "</answer>",
    "</think>" * 120_000,
    "$" * 1_000_000,
    "[" * 1_000_000,
    "1" * 1_000_000,
    "(A" * 500_000,
    "\n" * 1_000_000,
]


@pytest.mark.slow
@pytest.mark.parametrize("response", HOSTILE, ids=lambda text: text[:12])
def test_a_hostile_megabyte_takes_no_time(response):
    started = time.process_time()  # whatever else runs on the machine
    for kind in KINDS:
        text = read(response, Question(kind)).text
        assert len(text) <= MAX_CHARS or "<answer>" in response
        text = normal(text)
        bare(text), folded(text), split_answers(text), blanks(text), parse_quantity(text)
        chosen_letter(text, ("one", "two")), answer_parts(text, 2), statement_numbers(text)
    # 7 kinds; quadratic time would be hours. Measured: 10 s of CPU for the slowest on the slowest machine so far.
    assert time.process_time() - started < 60


PIECES = st.sampled_from(
    ["<answer>", "</answer>", "</think>", "\\boxed{", "}", "{", "\\frac{", "answer is ", "(A)", "B.", "$", "\\text{"]
    + [
        "1",
        "2.5",
        "-",
        ",",
        " ",
        "\n",
        "%",
        " cm",
        "^2",
        "/",
        "\\pm",
        "e9",
        "×10^",
        "½",
        "答案是",
        "\\%",
        "=",
        "[",
        "]",
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=25).map("".join)), st.sampled_from(KINDS))
def test_no_text_raises(response, kind):
    text = read(response, Question(kind)).text
    assert text == "" or any(part.casefold() in response.casefold() for part in text.split(", "))  # nothing is made up
    text = normal(text)
    split_answers(text), folded(text), chosen_letter(text, ("1", "2.5 cm", "x")), parse_unit(text)
    blanks(text), answer_parts(text, 2), statement_numbers(text)
    quantity = parse_quantity(text)
    assert quantity is None or quantity.value == quantity.value


@settings(max_examples=200, deadline=None)
@given(
    st.decimals(min_value=-(10**6), max_value=10**6, places=3),
    st.sampled_from(["", "$", "\\(", "**"]),
    st.sampled_from(["", " cm", "\\text{ cm}", " apples", "\\,\\mathrm{cm}"]),
)
def test_numbers_are_read_as_written(number, wrap, unit):
    closing = {"\\(": "\\)"}.get(wrap, wrap)
    assert parse_quantity(normal(f"{wrap}{number}{unit}{closing}")).value == pytest.approx(float(number))


@pytest.mark.parametrize(
    ("text", "value", "factor"),
    [
        ("1,234.5", 1234.5, None),
        ("1 \\frac{1}{2}", 1.5, None),
        ("\\dfrac{-3}{4}", -0.75, None),
        ("\\frac34", 0.75, None),
        ("3/4", 0.75, None),
        ("1.2 \\times 10^{3}", 1200.0, None),
        ("2e-3", 0.002, None),
        (".5", 0.5, None),
        ("€ 5", 5.0, None),
        ("v = 36 km/h", 36.0, 1000 / 3600),
        ("5 square centimeters", 5.0, 1e-4),
        ("90^{\\circ}", 90.0, 1.0),
        ("2 L", 2.0, 1e-3),
        ("about 5", None, None),
        ("5x", None, None),
        ("3 or 4", None, None),
        ("1/0", None, None),
        ("1e999", None, None),
        ("12:30", None, None),
        ("1/2/3", None, None),
        ("", None, None),
    ],
)
def test_quantities(text, value, factor):
    quantity = parse_quantity(normal(text))
    if value is None:
        assert quantity is None
    else:
        assert quantity.value == pytest.approx(value)
        assert (quantity.unit and quantity.unit.factor) == (factor and pytest.approx(factor))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("1, 2", ("1", "2")),
        ("$(1,2), [3,4)$", ("(1,2)", "[3,4)")),
        ("\\frac{1}{2} and 3; 4", ("\\frac{1}{2}", "3", "4")),
        ("2 \\pm \\sqrt{3}", ("2 + \\sqrt{3}", "2 - \\sqrt{3}")),
        ("±5", ("5", "-5")),
        ("", ()),
    ],
)
def test_several_answers(text, parts):
    assert split_answers(normal(text)) == parts


@pytest.mark.parametrize(
    ("response", "label", "right"),
    [
        ("<think> It goes into <answer> tags. </think> <answer> 7 </answer>", "7", True),
        ("<think> Like <answer>3</answer>? </think> <answer> 7 </answer>", "7", True),
        ("<think> Like <answer>7</answer>? </think> <answer> 3 </answer>", "7", False),
        ("<think> Like <answer>3</answer>? </think> 7", "7", True),
        ("<answer> 3 </answer> No: <answer> 7 </answer>", "7", True),
        ("<answer> 3 </answer> No: <answer> 7", "7", False),  # the last complete one
        ("<think> 3 + 4 </think><answer> 7 </answer>4 </think><answer>", "7", True),  # whatever follows it
        ("<think> 3 + 4 = 7", "7", False),  # cut off
        ("<think> the answer is \\boxed{7}", "7", False),
        ("<think> 3 + 4 </think> 7", "7", True),
        ("<think> 3 + 4 </think> The answer is 7.", "7", True),
        ("<think> 3 + 4 </think>\nThe answer is $7$.\n", "7", True),
        ("<think> 3 + 4 = 7 </think>", "7", True),  # nothing follows: what there is counts
        ("<answer> Option c </answer>", "C", True),
        ("<think> 3 + 4 </think> Option c", "C", True),
        ("<answer> option d </answer>", "C", False),
        ("<think> C or D? </think> So it is (C).", "C", True),
    ],
)
def test_what_counts_is_the_same_for_rewards_and_benchmarks(response, label, right):
    assert bool(score_accuracy(response, label)) == right
    assert judge_answer(response, [label], asdict(question_of(label)))[1] == right


@pytest.mark.parametrize("answer, right", [("5", True), ("not 5", False), ("at least 5", False), ("5 or 6", False)])
def test_a_number_is_said_and_neither_denied_nor_a_bound(answer, right):
    for response in (f"<answer>{answer}</answer>", f"<answer>It is {answer}.</answer>"):
        for kind in ("integer", "float"):
            assert judge_answer(response, ["5"], asdict(Question(kind)))[1] == right

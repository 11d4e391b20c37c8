"""The public formats: what each field becomes, and what malformed rows cost."""

import base64
import json
import shutil
from io import BytesIO
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from examples.benchmarks.make_samples import make_samples
from megatron_eureka.answers import Question
from megatron_eureka.datasets.benchmarks import BENCHMARKS, load_benchmark
from megatron_eureka.datasets.benchmarks.item import options_in, user_turn
from megatron_eureka.evaluate.results import question_text
from megatron_eureka.evaluate.scoring import AnswerScorer

SAMPLES = Path(__file__).resolve().parents[2] / "examples" / "benchmarks" / "samples"
COUNTS = {"mathvista": 8, "mathverse": 12, "mathvision": 6, "olympiadbench": 8, "k12": 6, "jsonl": 6}


def by_id(name, path=None, **more):
    loaded = load_benchmark(name, path or SAMPLES / name, **more)
    return {item.id: item for item in loaded.items}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_samples_are_read_from_their_folders(name, tmp_path):
    loaded = load_benchmark(name, SAMPLES / name, tmp_path)
    assert len(loaded.items) == COUNTS[name] and not loaded.left_out
    for item in loaded.items:
        parts = [part for turn in item.messages if isinstance(turn["content"], list) for part in turn["content"]]
        for part in parts:
            if part["type"] == "image":
                Image.open(part["image"]).load()
            else:
                assert "<image" not in part["text"] and "<img" not in part["text"] and part["text"].strip()


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mathvista", "testmini.json"),
        ("mathverse", "testmini.json"),
        ("mathvision", "test.jsonl"),
        ("olympiadbench", "data/OE_MM_maths_en_COMP.json"),
    ],
)
def test_a_table_and_its_other_form_are_the_same_questions(name, file, tmp_path):
    one, two = by_id(name, image_folder=tmp_path), by_id(name, SAMPLES / name / file)
    assert list(one) == list(two)
    for item, other in zip(one.values(), two.values(), strict=True):
        assert question_text(item) == question_text(other)
        fields = ("gold", "question", "as_trained", "subsets", "query")
        assert [getattr(item, f) for f in fields] == [getattr(other, f) for f in fields]


def test_mathvista():
    items = by_id("mathvista")
    choice = items["2"]
    assert (choice.gold, choice.question) == (("B",), Question("choice", ("left", "middle", "right")))
    options = "(A) left\n(B) middle\n(C) right\nAnswer with the letter of the right option."
    assert question_text(choice) == f"<image>\nWhich bar is the tallest?\n{options}"
    assert [items[pid].question.kind for pid in "14678"] == ["integer", "float", "list", "text", "float"]
    assert (items["4"].gold, items["4"].question.precision) == (("12.57",), 2)
    assert items["5"].question.unit == "m" and "(Unit: m)" in question_text(items["5"])
    assert items["3"].subsets["skills"] == ("geometry reasoning", "arithmetic reasoning")
    assert items["3"].subsets["task"] == ("geometry problem solving",)
    assert items["1"].query.startswith("Question: How many bars")


def test_mathverse():
    items = by_id("mathverse")
    assert (items["1"].gold, items["1"].question) == (("B",), Question("choice", ("6", "9", "12", "3")))
    assert (items["7"].gold, items["7"].question) == (("6",), Question())
    assert [items[str(n)].subsets["version"][0] for n in range(1, 7)] == [
        *("Text Dominant", "Text Lite", "Text Intensive", "Vision Intensive", "Vision Dominant", "Vision Only")
    ]
    # the question stands in the image, its options are known all the same
    assert question_text(items["6"]).startswith("<image>\nAnswer the question that is shown in the picture.")
    assert items["6"].question.choices == ("6", "9", "12", "3")
    text_only = by_id("mathverse", SAMPLES / "mathverse" / "testmini_text_only.json")
    assert {item.subsets["version"] for item in text_only.values()} == {("Text Only",)}
    assert all("<image>" not in question_text(item) for item in text_only.values())


def test_mathvision():
    items = by_id("mathvision")
    assert (items["3"].gold, items["3"].question) == (("C",), Question("choice", ("4", "8", "12", "16")))
    assert items["2"].question.choices == () and "(A)" not in question_text(items["2"])  # labels of the image
    assert (items["4"].question.kind, items["4"].gold) == ("free", ("\\frac{1}{3}",))
    assert items["4"].subsets == {"subject": ("arithmetic",), "level": ("3",)}


def test_olympiadbench():
    items = by_id("olympiadbench")
    assert (items["1"].question.kind, items["1"].gold, items["1"].question.tolerances) == ("free", ("$\\pi$",), (1e-8,))
    assert (items["2"].question.kind, items["2"].gold) == ("several", ("2", "-2"))
    assert (items["4"].question.unit, items["4"].question.tolerances) == ("km/h", (0.5,))
    assert (items["8"].gold, items["8"].question.tolerances) == (("1.41", "1.73"), (1e-2, 1e-2))
    assert question_text(items["1"]) == "In\n<image>\nthe circle has radius 1. Find its area."
    assert items["6"].subsets["answer_type"] == ("Tuple",)


def test_k12_and_the_training_format():
    k12, own = by_id("k12"), by_id("jsonl")
    assert (k12["k12-2"].question.kind, k12["k12-2"].gold) == ("choice", ("A",))
    assert (k12["k12-3"].question.kind, k12["k12-3"].gold) == ("free", ("16 cm^2",))
    assert k12["k12-5"].subsets == {"subject": ("Physics",)}
    assert {item.as_trained for item in own.values()} == {True}
    assert own["own-6"].messages == ({"role": "user", "content": "What is 2 + 2?"},)


def test_k12_with_options_in_the_question(folder):
    questions = {"A. 30° B. 45° C. 60° D. 90°": ("30°", "45°", "60°", "90°"), "A. 30° B. 45°": (), "": ()}
    rows = [{**K12, "id": n, "question": f"How large? {text}", "answer": "C"} for n, text in enumerate(questions)]
    items = by_id("k12", write(folder / "rows.jsonl", rows))
    assert [item.question.choices for item in items.values()] == list(
        questions.values()
    )  # gold C is none of two options
    assert question_text(items["0"]).endswith("D. 90°\nAnswer with the letter of the right option.")
    answers = {"<answer>60°</answer>": True, "<answer>C</answer>": True, "<answer>C. 60°</answer>": True}
    answers |= {"<answer>45°</answer>": False, "<answer>6°</answer>": False}
    with AnswerScorer(workers=1) as scorer:
        verdicts = scorer.score([(items["0"], answer) for answer in answers])
    assert [verdict.correct for verdict in verdicts] == list(answers.values())


VISTA = {"pid": "1", "question": "Q", "image": "1.png", "answer": "3", "question_type": "free_form"}
VISTA |= {"answer_type": "integer", "choices": None, "precision": None, "unit": None, "metadata": {}}
VERSE = {"sample_index": 1, "problem_version": "Text Lite", "question": "Q", "image": "1.png", "answer": "3"}
VISION = {"id": 1, "question": "Q", "options": [], "image": "1.png", "answer": "3"}
OLYMPIAD = {"id": 1, "question": "Q", "final_answer": ["3"], "is_multiple_answer": False, "error": None}
K12 = {"id": 1, "question": "Q", "answer": "3", "image_path": "1.png"}
LINE = {"id": 1, "message": [{"role": "user", "content": "Q"}], "answer": "3"}
GOOD = dict(zip(COUNTS, (VISTA, VERSE, VISION, OLYMPIAD, K12, LINE), strict=True))

MALFORMED = [
    ("mathvista", {"question": None}, "question"),
    ("mathvista", {"question": ["Q"]}, "question"),
    ("mathvista", {"answer": ""}, "answer"),
    ("mathvista", {"answer_type": "matrix"}, "answer"),
    ("mathvista", {"answer_type": "float", "precision": "two"}, "answer"),
    ("mathvista", {"question_type": "multi_choice", "choices": ["1", "2"]}, "choices"),
    ("mathvista", {"question_type": "multi_choice", "choices": "3"}, "choices"),
    ("mathvista", {"image": "missing.png"}, "image"),
    ("mathvista", {"image": "torn.png"}, "image"),
    ("mathvista", {"image": None}, "image"),
    ("mathvista", {"image": 7}, "image"),
    ("mathverse", {"question": "", "image": ""}, "question"),
    ("mathverse", {"image": "", "problem_version": "Vision Only"}, "image"),
    ("mathverse", {"question_type": "multi-choice", "answer": "three"}, "answer"),
    ("mathvision", {"options": ["1", "2"], "answer": "C"}, "answer"),
    ("mathvision", {"options": {"A": 1}}, "choices"),
    ("olympiadbench", {"final_answer": None}, "answer"),
    ("olympiadbench", {"final_answer": [["3"]]}, "answer"),
    ("olympiadbench", {"error": "small"}, "answer"),
    ("olympiadbench", {"error": "1,2,3"}, "answer"),
    ("olympiadbench", {"error": "nan"}, "answer"),
    ("olympiadbench", {"question": "See <image_2>."}, "image"),
    ("k12", {"answer": None}, "answer"),
    ("k12", {"image_path": ["1.png", "missing.png"]}, "image"),
    ("jsonl", {"message": "no turns"}, "question"),
    ("jsonl", {"message": [{"role": "assistant", "content": "Q"}]}, "question"),
    ("jsonl", {"answer": None}, "answer"),
]


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (28, 28)).save(tmp_path / "1.png")
    (tmp_path / "torn.png").write_bytes(b"no image")
    return tmp_path


@pytest.mark.parametrize(("name", "change", "kind"), MALFORMED)
def test_a_malformed_row_is_counted_and_named(folder, caplog, name, change, kind):
    file = write(folder / "rows.jsonl", [GOOD[name], {**GOOD[name], **change, "pid": 2, "sample_index": 2}])
    loaded = load_benchmark(name, file)
    assert len(loaded.items) == 1 and loaded.left_out == {kind: 1}
    assert f"left out: {file}:2: " in caplog.text


def test_lines_that_are_no_rows_are_counted(folder):
    file = folder / "rows.jsonl"
    good = json.dumps(K12)
    file.write_text(f'{good}\n{{"id": \n[1]\n\n"text"\n{"[" * 100_000}\n{good}\n\udcff\n', "utf-8", "surrogateescape")
    loaded = load_benchmark("k12", file)
    assert len(loaded.items) == 1
    assert loaded.left_out == {"row": 3, "json": 3}  # torn, a list, a text, too deep, the same id again, no UTF-8


@pytest.mark.parametrize("change", [{}, {"image": None}])
def test_a_file_without_a_good_row_is_refused(tmp_path, change):
    file = write(tmp_path / "rows.jsonl", [{**VISTA, **change}])  # there is no image beside it
    with pytest.raises(ValueError, match="no usable row for mathvista.*image"):
        load_benchmark("mathvista", file)


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [
        ("mathvist", "", "no benchmark 'mathvist'. Choose one of mathvista"),
        ("k12", "missing", "no such file or folder"),
        ("mathverse", "", "holds none of testmini.parquet"),
        ("k12", "rows.csv", "unknown kind '.csv'"),
        ("k12", "rows.json", "not valid JSON"),
        ("k12", "rows.parquet", "not readable as parquet"),
        ("jsonl", "many", "holds 2 files"),
    ],
)
def test_what_cannot_be_read_at_all_is_refused(tmp_path, name, path, message):
    for file in ("rows.csv", "rows.json", "rows.parquet"):
        (tmp_path / file).write_text("{")
    (tmp_path / "many").mkdir()
    for file in ("a.jsonl", "b.jsonl"):
        (tmp_path / "many" / file).touch()
    with pytest.raises(ValueError, match=message):
        load_benchmark(name, tmp_path / path)


def test_shards_are_one_table_and_a_limit_stops_early(tmp_path):
    source = SAMPLES / "mathvision" / "data" / "test-00000-of-00001.parquet"
    rows = pyarrow.parquet.read_table(source)
    (tmp_path / "data").mkdir()
    pyarrow.parquet.write_table(rows.slice(0, 4), tmp_path / "data" / "test-00000-of-00002.parquet")
    pyarrow.parquet.write_table(rows.slice(4), tmp_path / "data" / "test-00001-of-00002.parquet")
    assert list(by_id("mathvision", tmp_path)) == ["1", "2", "3", "4", "5", "6"]
    assert list(by_id("mathvision", tmp_path, limit=5)) == ["1", "2", "3", "4", "5"]


def test_images_in_a_table_become_files_once(tmp_path):
    by_id("mathvista", image_folder=tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 3  # eight rows, three images
    by_id("mathvista", image_folder=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_images_may_be_base64(tmp_path):
    buffer = BytesIO()
    Image.new("RGB", (28, 28)).save(buffer, "PNG")
    text = base64.b64encode(buffer.getvalue()).decode()
    rows = [{**K12, "image_path": text}, {**K12, "id": 2, "image_path": f"data:image/png;base64,{text}"}]
    items = by_id("k12", write(tmp_path / "rows.jsonl", rows), image_folder=tmp_path / "images")
    sources = {item.messages[0]["content"][0]["image"] for item in items.values()}
    assert len(sources) == 1 and Image.open(sources.pop()).size == (28, 28)


def test_images_stand_where_the_text_names_them():
    (turn,) = user_turn(
        "See <image_2> and <image_1>; again <image_2>.", {"<image_1>": "a", "<image_2>": "b", "<x>": "c"}
    )
    assert [part.get("image") or part["text"] for part in turn["content"]] == [
        *("c", "See", "b", "and", "a", "; again <image_2>.")
    ]


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("Which?\nA. one\nB. two", ("one", "two")),
        ("Which?\n(A) one\n(B) two", ("one", "two")),
        ("Choices:\nA:6\nB:9", ("6", "9")),
        ("How large is it? A. 30° B. 45° C. 60° D. 90°", ("30°", "45°", "60°", "90°")),
        ("How large is it ()\nA. $1$  B. $\\frac{1}{2}$\nC. (1,2) D. none", ("$1$", "$\\frac{1}{2}$", "(1,2)", "none")),
        ("How large? (A) one; (B) two\nExplain.", ("one", "two")),
        ("多大？（ ）A．30° B．45°", ("30°", "45°")),
        ("多大？\nA、30°\nB、45°", ("30°", "45°")),
        ("It passes through A. B. lies on it. A. left B. right", ("left", "right")),
        ("The ratio A:B is 2. Which of A. and C. is larger?", ()),
        ("The circle has centre A. Point B is on it.", ()),
        ("Point A: left.\nWhich?", ()),
        ("B. two\nA. one", ()),
        ("", ()),
    ],
)
def test_options_in_a_question(question, options):
    assert options_in(question) == options


def test_the_samples_in_the_repository_are_what_the_generator_writes(tmp_path):
    make_samples(tmp_path)
    written = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert written == sorted(path.relative_to(SAMPLES) for path in SAMPLES.rglob("*") if path.is_file())
    for name in written:
        if name.suffix == ".parquet":  # bytes of tables and images differ with the versions of pyarrow and Pillow
            tables = [pyarrow.parquet.read_table(folder / name) for folder in (tmp_path, SAMPLES)]
            kept = [column for column in tables[0].column_names if not column.startswith(("image", "decoded"))]
            assert tables[0].select(kept).equals(tables[1].select(kept))
        elif name.suffix in (".json", ".jsonl"):
            assert (tmp_path / name).read_bytes() == (SAMPLES / name).read_bytes()
    shutil.rmtree(tmp_path)

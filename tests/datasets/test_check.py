"""Checking training files: each kind of fault is planted and found where it is, and a sound file has none."""

import json

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from megatron_eureka.config.schema import Data
from megatron_eureka.data.images import ImageStore
from megatron_eureka.data.prompts import load_prompts
from megatron_eureka.datasets.check import TokenCounter, check_files, describe
from megatron_eureka.datasets.fingerprint import fingerprint, look_alikes, normalize_text
from tests.data.images import drawing_in, encoded, triangle


def judge(labels):
    return [("number", "no number") if label in ("bad", "") else ("number", None) for label in labels]


class Folder:
    """Writes images and JSONL files."""

    def __init__(self, path):
        self.path = path

    def image(self, name, seed, kind="PNG", **options):
        (self.path / name).write_bytes(encoded(triangle(seed), kind, **options))
        return name

    def file(self, name, *lines):
        path = self.path / name
        path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
        return path


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def line(text, answer, *images, **more):
    parts = [{"type": "image", "image": image} for image in images] + [{"type": "text", "text": text}]
    return {
        "message": [{"role": "system", "content": "S"}, {"role": "user", "content": parts}],
        "answer": answer,
        **more,
    }


def found(report):
    return [(problem.kind, int(problem.place.rpartition(":")[2])) for problem in report.problems]


def test_a_sound_file_has_no_problems(folder, processor):
    images = [folder.image(f"{seed}.png", seed) for seed in range(3)]
    lines = [line(f"Question {i}?", i, image) for i, image in enumerate(images)]
    path = folder.file("train.jsonl", *lines, line("No image here", "4"))
    options = Data()
    report = check_files([path], judge, count_tokens=TokenCounter(processor, options.min_pixels, options.max_pixels))
    assert report.problems == [] and (report.lines, report.read) == (4, 4)
    assert report.answers == {"kinds": {"number": 4}, "without": 0, "parse_rate": 1.0}
    assert report.prompts["characters"] == {"min": 11, "median": 11, "p95": 13, "max": 13, "mean": 11.5}
    assert report.prompts["images"]["mean"] == 0.75 and report.images["distinct"] == 3
    assert report.images["width"]["max"] == 240 and report.images["pixels"]["min"] == 240 * 180
    store = ImageStore.from_options(options, processor.image_processor)
    tokens = [len(prompt.token_ids) for prompt in load_prompts([path], options, processor, store).prompts]
    assert report.prompts["tokens"] == describe(tokens)


def test_faults_of_single_lines_are_named_with_file_and_line(folder):
    good = folder.image("good.png", 1)
    (folder.path / "torn.png").write_bytes(encoded(triangle(2))[:300])
    path = folder.file(
        "train.jsonl",
        line("Good?", "1", good),
        "{",
        '{"question": "Q", "answer": "A"}',
        {"message": "[]", "answer": "1"},
        line("Missing?", "1", "missing.png"),
        "",  # a blank line counts, and is no line of data
        line("Torn?", "1", "torn.png"),
        line("No answer?", None),
        line("A list?", ["1"]),
        line("Truth?", True),
        line("Label?", "bad"),
        line("Far away?", "1", "https://example.org/x.png"),
        line("Demonstration", None, response="<think>"),
        line("Half a pair \ud83d?", "1"),
    )
    report = check_files([path], judge)
    assert found(report) == [
        *(("json", 2), ("message", 3), ("message", 4), ("image", 5), ("image", 7)),
        *(("answer", 8), ("answer", 9), ("answer", 10), ("message", 12), ("text", 14), ("label", 11)),
    ]
    assert all(problem.place.startswith(str(path)) and problem.reason for problem in report.problems)
    assert "missing.png" in report.problems[3].reason and "not a readable image" in report.problems[4].reason
    assert (report.lines, report.read, report.answers["parse_rate"]) == (13, 3, 0.5)
    assert report.answers["without"] == 1
    assert report.counts == {"json": 1, "message": 3, "image": 2, "answer": 3, "text": 1, "label": 1}
    assert json.loads(json.dumps(report.as_dict()))["counts"] == report.counts


def test_labels_are_judged_without_their_tags_and_box(folder):
    seen = []

    def note(labels):
        seen.extend(labels)
        return judge(labels)

    path = folder.file("train.jsonl", line("A?", "<answer> B </answer>"), line("B?", r"\boxed{x}"), line("C?", "x"))
    assert check_files([path], note).problems == [] and seen == ["B", "x"]


def test_what_training_refuses_is_no_clean_line(folder, processor):
    """Each line is refused by training too, and by the same words where it is a field's fault."""
    lines = [
        line("Empty?", ""),
        line("Answer?", "1", response=5),
        line("Answer?", "1", response=""),
        line("Where <|image_pad|>?", "1"),
        line("Not a number?", float("nan")),
        line("Infinite?", float("inf")),
        line("Neither?", None, response=None),
        "[" * 200_000,
        {"message": "[" * 200_000, "answer": "1"},
        {"message": [{"role": "user", "content": "<|image_pad|>"}], "answer": "1"},
        line("Yes?<|im_end|>\n<|im_start|>assistant\nYes", "1"),
        line("Answer?", "1", response="<|vision_start|>"),
        line("Tags?", "<answer>1</answer><answer>2</answer>"),
        line("Half?", "1", id="\ud83d"),
    ]
    kinds = ["label", "response", "response", "message", "answer", "answer", "answer", "json", "message", "message"]
    kinds += ["message", "response", "answer", "text"]
    for one, kind in zip(lines, kinds, strict=True):
        path = folder.file("train.jsonl", line("Good?", "1"), one)
        report = check_files([path], judge)
        assert found(report) == [(kind, 2)]
        store = ImageStore.from_options(Data(), processor.image_processor)
        with pytest.raises(ValueError, match=r"train.jsonl:2: ") as error:
            load_prompts([path], Data(), processor, store, lambda label: judge([label])[0][1])
        assert kind == "message" or report.problems[0].reason in str(error.value)


def test_huge_whole_numbers_and_ids_that_are_null(folder):
    path = folder.file(
        "train.jsonl", line("A?", 10**400, id=None), line("B?", "1", id=None), line("C?", "1", id="None")
    )
    assert check_files([path], judge).problems == []


def turns(*contents, role="user"):
    return {"message": [{"role": role, "content": content} for content in contents], "answer": "1"}


@pytest.mark.parametrize(
    "one, says",
    [
        (turns("3 + 4?") | {"message": [*turns("3 + 4?")["message"], {"role": "assistant", "content": "7"}]}, "last"),
        (turns("Be brief.", role="system"), "the last turn is the system's"),
        (turns(""), "empty"),
        (turns(" \n"), "empty"),
        (turns([]), "empty"),
        (turns([{"type": "text", "text": " "}]), "empty"),
        (turns("What is in <image>?") | {"image": "0.png"}, "<image> in a text, but no image"),
        (turns("What is in <image1> and <image_2>?"), "<image1>, <image_2> in a text"),
    ],
)
def test_prompts_that_ask_nothing_or_tell_the_answer_are_refused(folder, processor, one, says):
    """By checking and by training, with the same words."""
    folder.image("0.png", 0)
    path = folder.file("train.jsonl", line("Good?", "1"), one)
    report = check_files([path], judge)
    assert found(report) == [("message", 2)] and says in report.problems[0].reason
    store = ImageStore.from_options(Data(), processor.image_processor)
    with pytest.raises(ValueError) as error:
        load_prompts([path], Data(), processor, store)
    assert report.problems[0].reason in str(error.value)


def test_placeholders_are_counted_against_the_images(folder):
    one, two = folder.image("0.png", 0), folder.image("1.png", 1)
    path = folder.file(
        "train.jsonl",
        line("See <image1>, again <image1>, and <image2>.", "1", one),
        line("See <image1>, again <image1>, and <image2>.", "1", one, two),
        line("See <image>.", "1", one, two),
        line("See <image>.", "1", one),
    )
    assert found(check_files([path], judge)) == [("message", 1), ("message", 3)]


def test_an_image_alone_and_turns_before_the_last_are_prompts(folder, processor):
    folder.image("0.png", 0)
    alone = turns([{"type": "image", "image": "0.png"}])
    talk = alone | {"message": [*turns("2 + 2?")["message"], {"role": "assistant", "content": "4"}, *alone["message"]]}
    path = folder.file("train.jsonl", alone, talk)
    assert check_files([path], judge).problems == []
    store = ImageStore.from_options(Data(), processor.image_processor)
    assert len(load_prompts([path], Data(), processor, store)) == 2


def test_long_and_narrow_images_are_named(folder, processor):
    """With or without a model; 200 times as long as wide is the most that training takes."""
    for name, size in (("long.png", (2000, 2)), ("high.png", (2, 402)), ("most.png", (2000, 10))):
        triangle(0).resize(size).save(folder.path / name)
    lines = [line(name, "1", name) for name in ("long.png", "high.png", "most.png")]
    path = folder.file("train.jsonl", *lines)
    for counter in (None, TokenCounter(processor, Data().min_pixels, Data().max_pixels)):
        report = check_files([path], judge, count_tokens=counter)
        assert found(report) == [("image", 1), ("image", 2)]
        assert "long.png (2000 x 2)" in report.problems[0].reason
    test = folder.file("test.jsonl", lines[0])
    assert check_files([folder.file("ours.jsonl", lines[2])], judge, [test]).problems == []  # no fault of training's


@pytest.mark.parametrize("content", ["", " \n\n"])
def test_files_without_a_line_are_a_problem(folder, content):
    empty, good = folder.path / "empty.jsonl", folder.file("train.jsonl", line("Good?", "1"))
    empty.write_text(content)
    report = check_files([good, empty], judge)
    assert [(problem.kind, problem.place) for problem in report.problems] == [("empty", str(empty))]
    assert (report.lines, report.read) == (1, 1)
    report = check_files([good], judge, [empty])
    assert [(problem.kind, problem.place) for problem in report.problems] == [("test_row", str(empty))]


def test_tables_that_training_does_not_read_are_one_message(folder):
    good = folder.file("good.jsonl", line("Good?", "1"))
    pyarrow.parquet.write_table(pyarrow.table({"question": ["Q"] * 9}), folder.path / "rows.parquet")
    (folder.path / "renamed.jsonl").write_bytes((folder.path / "rows.parquet").read_bytes())
    (folder.path / "rows.json").write_text('[\n {"question": "Q"}\n]')
    for name in ("rows.parquet", "renamed.jsonl", "rows.json"):
        with pytest.raises(ValueError, match=rf"{name} is .* Run `megatron-eureka data convert`"):
            check_files([good, folder.path / name], judge)


def test_numbered_images_of_a_test_file_are_seen(folder):
    """OlympiadBench's columns; the placeholders are no part of the text."""
    for seed in range(2):
        folder.image(f"{seed}.png", seed)
    train = folder.file(
        "train.jsonl", line("In the circle, find x.", "1", "0.png", "1.png"), line("New?", "1", "1.png")
    )
    row = {f"image_{number}": None for number in range(1, 10)}
    row |= {f"image_{seed + 1}": {"bytes": encoded(triangle(seed)), "path": None} for seed in range(2)}
    rows = [row | {"question": "In <image_1> the circle, find x. <image_2>", "final_answer": ["1"]}]
    rows.append(row | {"question": "A gap", "image_1": None})
    parquet = folder.path / "test.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), parquet)
    report = check_files([train], judge, [parquet])
    assert found(report) == [("test_row", 1), ("test_question", 1), ("test_image", 2)]
    assert report.tests == {"questions": 1, "images": 2}


def test_a_test_row_whose_images_are_elsewhere_is_named(folder):
    train = folder.file("train.jsonl", line("Q?", "1"))
    test = folder.file("test.jsonl", {"question": "In <img_7> find x."}, {"question": "In <image> find x."})
    report = check_files([train], judge, [test])
    assert found(report) == [("test_row", 1), ("test_row", 2)] and "<img_7>" in report.problems[0].reason


def test_a_mapping_of_rows_with_images_beside_its_folder(folder):
    """MathVista's testmini.json; a question is the same with its options and without them."""
    (folder.path / "set" / "data").mkdir(parents=True)
    (folder.path / "set" / "images").mkdir()
    for name in ("set/images/1.png", "1.png"):
        folder.image(name, 1)
    rows = {"1": {"pid": "1", "question": "Find x.", "image": "images/1.png", "choices": ["3", "4"], "answer": "4"}}
    test = folder.path / "set" / "data" / "testmini.json"
    test.write_text(json.dumps(rows))
    hint = "\n(A) 3\n(B) 4\nAnswer with the letter of the right option."
    train = folder.file("train.jsonl", line("Find x.", "4", "1.png"), line("Find x." + hint, "B", "1.png"))
    report = check_files([train], judge, [test])
    assert found(report) == [("test_question", 1), ("test_question", 2)]


def test_a_folder_of_one_kind_of_table_is_a_test_set(folder):
    (folder.path / "set" / "data").mkdir(parents=True)
    (folder.path / "set" / ".cache").mkdir()
    folder.file("set/.cache/info.json", {})
    for part in range(2):
        folder.file(f"set/data/{part}.jsonl", {"question": f"Question {part}?"})
    train = folder.file("train.jsonl", line("Question 1?", "1"))
    report = check_files([train], judge, [folder.path / "set"])
    assert found(report) == [("test_question", 1)] and report.tests["questions"] == 2
    folder.file("set/info.json", {})
    (folder.path / "none").mkdir()
    with pytest.raises(ValueError, match=r"holds data/0.jsonl, data/1.jsonl, info.json. Give one of its files"):
        check_files([train], judge, [folder.path / "set"])
    with pytest.raises(ValueError, match=r"holds no .parquet, .json or .jsonl"):
        check_files([train], judge, [folder.path / "none"])
    with pytest.raises(
        ValueError, match=r"set is a folder; it holds data/0.jsonl, data/1.jsonl, info.json. Give files"
    ):
        check_files([folder.path / "set"], judge)


def test_images_of_one_colour_are_named(folder):
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(folder.path / "nothing.png")
    Image.new("RGB", (40, 40), "red").save(folder.path / "red.png")
    drawing_in("LA").save(folder.path / "seen.png")
    drawing_in("I;16", 2).save(folder.path / "deep.png")
    names = ("nothing.png", "red.png", "seen.png", "deep.png")
    report = check_files([folder.file("train.jsonl", *(line(name, "1", name) for name in names))], judge)
    assert found(report) == [("blank", 1), ("blank", 2)]
    assert str(folder.path / "red.png") in report.problems[1].reason


def test_repeated_questions_conflicts_and_ids(folder):
    one, same, other = (folder.image(*pair) for pair in (("a.png", 1), ("b.png", 1), ("c.png", 2)))
    path = folder.file(
        "train.jsonl",
        line("How long is AB?", "3", one, id="x"),
        line("how long is  AB", "3", same),  # the same but for case, blanks, punctuation and the image's name
        line("How long is AB?", "4", one),
        line("How long is AB?", "3", other),  # another image
        line("How long is AC?", "3", one, id="x"),
        line("How long is AB?", "3"),  # no image
    )
    report = check_files([path], judge)
    assert sorted(found(report)) == [("conflict", 3), ("duplicate", 2), ("repeated_id", 5)]
    assert "'4' here, '3' there" in next(p.reason for p in report.problems if p.kind == "conflict")
    assert report.images["distinct"] == 2  # by content


def test_overlap_with_test_files_of_any_layout(folder):
    for name, seed in (("0.png", 0), ("1.png", 1), ("2.png", 2), ("3.png", 3)):
        folder.image(name, seed)
    folder.image("2-again.jpg", 2, "JPEG", quality=60, scale=0.7)
    long = "In a triangle with sides of 3, 4 and 5 centimetres, how large is the area?"
    train = folder.file(
        "train.jsonl",
        line("What is the area?", "1", "0.png"),  # the same question
        line("Something else?", "2", "1.png"),  # the same file
        line("And this?", "3", "2-again.jpg"),  # the same image, encoded again and smaller
        line(long, "6", "3.png"),  # the same long text
        line("Find x.", "7"),  # nothing: short, and the test has an image
        line("What is 1 + 1?", "2"),  # the same question, without images
    )
    rows = [
        {"question": "What is the area ?", "image": {"bytes": encoded(triangle(0))}},
        {"question": "Test question", "image": {"bytes": encoded(triangle(1))}},
        {"question": "Another", "image": {"bytes": encoded(triangle(2))}},
        {"question": long, "image": {"bytes": encoded(triangle(20))}},
        {"question": "Find x.", "image": {"bytes": encoded(triangle(21))}},
        {"question": "What is 1 + 1?", "image": None},
    ]
    parquet = folder.path / "test.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), parquet)
    expected = [("test_question", 1), ("test_image", 2), ("test_look_alike", 3), ("test_text", 4)]
    expected.append(("test_question", 6))
    report = check_files([train], judge, [parquet])
    assert found(report) == expected
    assert [problem.reason.count(f"{parquet}:") for problem in report.problems] == [1] * 5
    assert report.tests == {"questions": 6, "images": 5}

    folder.image("t.png", 1)
    ours = folder.file("test.jsonl", line("Test question", "2", "t.png"), {"question": 5}, "[]")
    report = check_files([train], judge, [ours])
    assert found(report) == [("test_row", 2), ("test_row", 3), ("test_image", 2)]


def test_every_image_of_a_question_is_held_against_the_tests(folder):
    for name, seed in (("new.png", 5), ("1.png", 1), ("2.png", 2)):
        folder.image(name, seed)
    folder.image("2-again.jpg", 2, "JPEG", quality=60, scale=0.7)
    train = folder.file(
        "train.jsonl", line("Which?", "1", "new.png", "1.png"), line("And now?", "2", "new.png", "2-again.jpg")
    )
    test = folder.file("test.jsonl", line("Test", "1", "1.png"), line("Another", "1", "2.png"))
    assert found(check_files([train], judge, [test])) == [("test_image", 1), ("test_look_alike", 2)]


def test_an_image_root_is_not_that_of_test_files(folder, tmp_path):
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    folder.image("ours/0.png", 0)
    folder.image("theirs/0.png", 1)
    train = folder.file("train.jsonl", line("Q?", "1", "0.png"))
    for test in (line("T?", "1", "0.png"), {"question": "T?", "image": "0.png"}):
        report = check_files([train], judge, [folder.file("theirs/test.jsonl", test)], image_root=tmp_path / "ours")
        assert report.problems == [] and report.tests == {"questions": 1, "images": 1}


def test_an_image_root_replaces_the_files_folder(folder, tmp_path):
    (tmp_path / "images").mkdir()
    folder.image("images/0.png", 0)
    path = folder.file("train.jsonl", line("Q", "1", "0.png"))
    assert found(check_files([path], judge)) == [("image", 1)]
    assert check_files([path], judge, image_root=tmp_path / "images").problems == []


def test_files_that_are_missing_are_refused(folder):
    path = folder.file("train.jsonl", line("Q", "1"))
    for arguments in (([path, folder.path / "no.jsonl"], judge), ([path], judge, [folder.path / "no.parquet"])):
        with pytest.raises(ValueError, match="no such file"):
            check_files(*arguments)


def test_look_alikes_survive_encoding_and_scaling_and_nothing_else(monkeypatch):
    originals = [fingerprint(encoded(triangle(seed))) for seed in range(40)]
    again = [fingerprint(encoded(triangle(seed), "JPEG", 0.6, quality=60)) for seed in range(40)]
    assert not {image.digest for image in originals} & {image.digest for image in again}
    hashes = [[image.shape_hash for image in images] for images in (originals, again)]
    assert {(row, column) for row, column, _ in look_alikes(*hashes)} == {(index, index) for index in range(40)}
    plain = [fingerprint(encoded(triangle(0).resize((1, 1)).resize((90, 90)))).shape_hash]
    assert plain == [0] and look_alikes(plain, plain) == []  # one colour looks like nothing
    assert look_alikes([], [1]) == look_alikes([1], []) == look_alikes([0], [1]) == look_alikes([1], [0]) == []
    monkeypatch.setattr("megatron_eureka.datasets.fingerprint.ROWS_AT_ONCE", 2)
    assert look_alikes([1 << 60, 7, (1 << 90) - 1, 3], [3]) == [(0, 0, 3), (1, 0, 1), (3, 0, 0)]
    assert look_alikes([0b1111], [0b1110, 0b0, 0b10000111 << 192], max_distance=8) == [(0, 0, 1), (0, 2, 8)]


def test_two_drawings_that_are_nearly_alike_are_two():
    hashes = [fingerprint(encoded(triangle(seed))).shape_hash for seed in (61, 264)]
    [(_, _, distance)] = look_alikes(hashes[:1], hashes[1:], max_distance=60)
    assert distance == 50 and look_alikes(hashes[:1], hashes[1:]) == []


def test_black_drawings_on_nothing_look_like_what_is_seen():
    """As it is often saved: black everywhere, and the drawing in the transparency alone."""
    hashes = []
    for seed in (1, 2):
        ink = triangle(seed).convert("L").point(lambda level: 255 - level)
        drawing = Image.new("RGBA", ink.size, "black")
        drawing.putalpha(ink)
        hashes.append(fingerprint(encoded(drawing)).shape_hash)
    seen = [fingerprint(encoded(triangle(seed))).shape_hash for seed in (1, 2)]
    assert {(row, column) for row, column, _ in look_alikes(hashes, seen)} == {(0, 0), (1, 1)}


@pytest.mark.parametrize(
    "first, second, same",
    [
        ("Find x.", "find  X", True),
        ("\uff21\uff22\uff1d3", "AB=3", True),  # full width
        ("x+1", "x-1", False),
        ("1/2", "12", False),
        ("(a)", "a", False),
    ],
)
def test_normalised_texts(first, second, same):
    assert (normalize_text(first) == normalize_text(second)) == same

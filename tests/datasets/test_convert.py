"""Public data sets as training JSONL: every form of an image, the usual columns, and what cannot be used."""

import base64
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from megatron_eureka.config.schema import ANSWER_PROMPT, Data
from megatron_eureka.data.bad_row import BadRow
from megatron_eureka.data.images import ImageStore
from megatron_eureka.data.prompts import load_prompts
from megatron_eureka.datasets.benchmarks import load_benchmark
from megatron_eureka.datasets.convert import Conversion, convert, convert_row
from megatron_eureka.datasets.layouts import Columns
from megatron_eureka.datasets.tables import Row
from megatron_eureka.log import logger
from tests.data.images import encoded, triangle

ONE, TWO, THREE = (encoded(triangle(seed)) for seed in (1, 2, 3))
SAMPLES = Path(__file__).resolve().parents[2] / "examples" / "benchmarks" / "samples"
LAST = ("message", "expected the user's")


def run(out, *inputs, **options):
    return convert(list(inputs), Conversion(out, out.parent / "images", **options))


def content_of(line: str) -> list:
    system, user = json.loads(json.loads(line)["message"])
    assert (system["role"], user["role"], system["content"]) == ("system", "user", ANSWER_PROMPT)
    return user["content"]


def test_every_form_of_an_image_is_taken_and_bad_rows_are_named(tmp_path, processor, caplog):
    (tmp_path / "own.png").write_bytes(ONE)
    text = base64.b64encode(TWO).decode()
    rows = [
        {"id": "a", "question": "Where? <image> And <image>?", "answer": 3, "image": [{"bytes": text}, "own.png"]},
        {"id": "b", "question": "What is it?", "answer": " $x$ ", "image": f"data:image/png;base64,{text}"},
        {"question": "1 + 1?", "answer": "2", "image": None},
        {"id": "d", "question": "Broken", "answer": "1", "image": "missing.png"},
        {"id": "e", "question": "<image> <image>", "answer": "1", "image": "own.png"},
        {"id": "f", "question": "No answer", "answer": None},
        {"id": "g", "question": "Not an image", "answer": "1", "image": base64.b64encode(b"GIF89a nothing").decode()},
        "no row",
        {"id": 0, "question": "Id 0?", "answer": 0.5},
        {"id": "h", "question": "Half a pair \ud83d?", "answer": "1"},
        {"id": "i", "question": "Not a number", "answer": float("nan")},
    ]
    source, out = tmp_path / "rows.json", tmp_path / "out" / "train.jsonl"
    source.write_text(json.dumps(rows))
    logger.addHandler(caplog.handler)
    try:
        counts = run(out, source)
    finally:
        logger.removeHandler(caplog.handler)
    assert counts == {"written": 4, "image": 2, "question": 1, "answer": 2, "row": 1, "text": 1}
    assert all(f"left out: rows.json:{number}: " in caplog.text for number in (3, 4, 5, 6, 7, 9, 10))

    lines = out.read_text().splitlines()
    blue, green = (part["image"] for part in content_of(lines[0]) if part["type"] == "image")
    assert [part["type"] for part in content_of(lines[0])] == ["text", "image", "text", "image", "text"]
    assert (out.parent / blue).read_bytes() == TWO  # the encoded file itself, not a copy that was encoded again
    assert (out.parent / green).read_bytes() == ONE
    assert content_of(lines[1]) == [{"type": "image", "image": blue}, {"type": "text", "text": "What is it?"}]
    assert content_of(lines[2]) == [{"type": "text", "text": "1 + 1?"}]
    assert [(json.loads(line)["id"], json.loads(line)["answer"]) for line in lines] == [
        *(("a", "3"), ("b", "$x$"), ("rows.json:2", "2"), ("0", "0.5")),
    ]
    assert len(list((out.parent / "images").iterdir())) == 2  # an image that comes twice is written once

    options = Data()
    store = ImageStore.from_options(options, processor.image_processor)
    assert [len(prompt.images) for prompt in load_prompts([out], options, processor, store).prompts] == [2, 1, 0, 0]


@pytest.mark.parametrize(
    "row, record_id, question",
    [
        ({"id": "m1", "question": "Q", "answer": "A", "image": {"bytes": ONE, "path": "x.png"}}, "m1", "Q"),  # MMK12
        ({"problem": "<image>Find x.", "answer": "3", "images": [{"bytes": ONE, "path": None}]}, "0", "Find x."),
        (  # MathVista: `image` is a path of the set's own
            {"pid": "7", "question": "Q", "answer": "2", "image": "images/7.jpg", "decoded_image": {"bytes": ONE}},
            *("7", "Q"),
        ),
    ],
)
def test_the_layouts_of_public_sets_in_parquet(tmp_path, row, record_id, question):
    source, out = tmp_path / "rows.parquet", tmp_path / "train.jsonl"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), source)
    assert run(out, source) == {"written": 1}
    record = json.loads(out.read_text())
    image, text = content_of(out.read_text())
    assert (out.parent / image["image"]).read_bytes() == ONE
    assert (record["id"].removeprefix("rows.parquet:"), text["text"], record["answer"]) == (
        *(record_id, question, row["answer"]),
    )


def test_chat_turns_pass_through_with_their_images(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "own.png").write_bytes(ONE)
    parts = [{"type": "image", "image": f"file://{tmp_path}/in/own.png"}, {"type": "text", "text": "Find x."}]
    good = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    lines = [
        {"id": "0", "message": json.dumps(good), "answer": "3"},
        {"id": "1", "message": [{"role": "user", "content": [{"type": "image", "image": "own.png"}]}], "answer": 4},
        {"id": "2", "message": "[{", "answer": "3"},
        {"id": "3", "message": [{"role": "user", "content": [{"type": "image", "image": "no.png"}]}], "answer": "3"},
        {"id": "4", "message": json.dumps(good), "answer": ""},
        {"id": "5", "message": [{"role": "user", "content": [{"type": "image", "image": "http://x/y.png"}]}]},
    ]
    source, out = tmp_path / "in" / "train.jsonl", tmp_path / "out" / "train.jsonl"
    source.write_text("\n".join(map(json.dumps, lines)))
    assert run(out, source) == {"written": 2, "message": 1, "image": 1, "answer": 2}
    first, second = (json.loads(json.loads(line)["message"]) for line in out.read_text().splitlines())
    assert first[0] == good[0]  # their own system turn stays, and ours is not added
    assert first[1]["content"][1] == parts[1] and [turn["role"] for turn in second] == ["user"]
    for turn in (first[1], second[0]):
        assert (out.parent / turn["content"][0]["image"]).read_bytes() == ONE


def test_small_images_in_base64_are_no_names_of_files(tmp_path):
    """Under 1024 characters a text may be a path; a name of more than 255 is none, and asking for it is an error."""
    text = base64.b64encode(encoded(Image.new("RGB", (400, 400)))).decode()
    assert max(map(len, text.split("/"))) > 255 and len(text) < 1024
    source, out = tmp_path / "rows.json", tmp_path / "train.jsonl"
    source.write_text(json.dumps([{"question": "Q", "answer": "1", "image": text}]))
    assert run(out, source) == {"written": 1}
    image, _ = content_of(out.read_text())
    assert (tmp_path / image["image"]).read_bytes() == base64.b64decode(text)


def test_columns_limit_and_system_turn(tmp_path):
    source, out = tmp_path / "rows.jsonl", tmp_path / "train.jsonl"
    source.write_text('{"text": "1?", "gold": "1"}\n{"text": "2?", "gold": "2"}\n{"text": "3?", "gold": "3"}\n')
    columns = Columns(question="text", answer="gold")
    assert run(out, source, columns=columns, system="", limit=2) == {"written": 2}
    turns = [json.loads(json.loads(line)["message"]) for line in out.read_text().splitlines()]
    assert [[turn["role"] for turn in message] for message in turns] == [["user"], ["user"]]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("rows.json", "{", "not valid JSON"),
        ("rows.json", "[" * 200_000, "rows.json: not valid JSON"),
        ("rows.jsonl", "[" * 200_000, "could be used: {'json': 1}"),
        ("rows.jsonl", json.dumps({"message": "[" * 200_000, "answer": "1"}), "{'message': 1}"),
        ("rows.json", "{}", "expected a list of rows"),
        ("rows.parquet", "PAR1", "not readable as parquet"),
        ("rows.csv", "a,b", "Give .parquet, .json or .jsonl"),
        ("rows.jsonl", '{"text": "1?", "answer": "1"}\n', "No row of 1 files could be used: {'question': 1}"),
        ("rows.jsonl", "", "they are empty"),
        (None, None, "no such file"),
    ],
)
def test_what_cannot_be_read_is_refused_and_nothing_is_written(tmp_path, name, content, says):
    source, out = tmp_path / (name or "none.json"), tmp_path / "out" / "train.jsonl"
    if name:
        source.write_text(content)
    with pytest.raises(ValueError, match=says):
        run(out, source)
    assert not list(out.parent.iterdir())


def test_folders_are_no_files(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"question": "1?", "answer": "1"}\n')
    with pytest.raises(ValueError, match="is a folder; it holds rows.jsonl. Give files"):
        run(tmp_path / "train.jsonl", tmp_path)
    for out in (tmp_path, Path("/"), Path(".")):
        with pytest.raises(ValueError, match="is a folder. Give the JSONL file to write"):
            run(out, tmp_path / "rows.jsonl")


def test_lines_that_are_no_json_are_left_out(tmp_path, caplog):
    source, out = tmp_path / "rows.jsonl", tmp_path / "train.jsonl"
    source.write_text('{"question": "1?", "answer": "1"}\n\n{"question": \n{"question": "2?", "answer": "2"}\n')
    logger.addHandler(caplog.handler)
    try:
        assert run(out, source) == {"written": 2, "json": 1}
    finally:
        logger.removeHandler(caplog.handler)
    assert "left out: rows.jsonl:3: not valid JSON" in caplog.text
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["rows.jsonl:1", "rows.jsonl:4"]


def convert_rows(tmp_path, *rows, **options):
    """(counts, records, what each prompt's turns say, images as their bytes)."""
    source, out = tmp_path / "rows.parquet", tmp_path / "train.jsonl"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), source)
    counts = run(out, source, **options)
    records = [json.loads(line) for line in out.read_text().splitlines()]
    return counts, records, [[shown(turn, tmp_path) for turn in json.loads(one["message"])] for one in records]


def shown(turn, folder):
    content = turn["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    said = [part["text"] if part["type"] == "text" else (folder / part["image"]).read_bytes() for part in parts]
    return turn["role"], *said


SYSTEM = ("system", ANSWER_PROMPT)
HINT = "\nAnswer with the letter of the right option."


@pytest.mark.parametrize(
    "row, asked, answer",
    [
        (  # MathVista: the answer is an option's text
            {"question": "Find it.", "choices": ["45°", "60°"], "answer": "60°", "decoded_image": {"bytes": ONE}},
            *((ONE, "Find it.\n(A) 45°\n(B) 60°" + HINT), "B"),
        ),
        (  # MathVision: a letter; a placeholder with a number
            {"question": "Area?\n<image1>", "options": ["1", "2", "4"], "answer": "C", "decoded_image": {"bytes": ONE}},
            *(("Area?", ONE, "(A) 1\n(B) 2\n(C) 4" + HINT), "C"),
        ),
        (  # options in the image
            {"question": "Which?", "options": ["A", "B"], "answer": "B", "decoded_image": {"bytes": ONE}},
            *((ONE, "Which?" + HINT), "B"),
        ),
        (  # options that the question has already
            {"question": "Which? (A) one (B) two", "options": ["one", "two"], "answer": "(a)"},
            *(("Which? (A) one (B) two" + HINT,), "A"),
        ),
        (
            {"question": "How many?", "options": [2.5, 3.0], "answer": "3.0"},
            ("How many?\n(A) 2.5\n(B) 3.0" + HINT,),
            "B",
        ),
        ({"question": "Find x.", "choices": None, "answer": "3"}, ("Find x.",), "3"),
        ({"question": "Find x.", "context": "Let y = 1.", "answer": ["3"]}, ("Let y = 1.\n\nFind x.",), "3"),
        (  # OlympiadBench
            {"question": "In <image_2> and <image_1>", "final_answer": ["$2$"], "image_1": ONE, "image_2": TWO},
            *(("In", TWO, "and", ONE), "$2$"),
        ),
        (  # numbers say which, and the others are taken in turn
            {"question": "<image2> is not <image> or <image>", "answer": "1", "images": [ONE, TWO, THREE]},
            *((TWO, "is not", ONE, "or", THREE), "1"),
        ),
        ({"question": "<image1> twice, <image1>", "answer": "1", "image": ONE}, (ONE, "twice,", ONE), "1"),
    ],
)
def test_options_and_numbered_images_are_in_the_prompt(tmp_path, row, asked, answer):
    counts, [record], [turns] = convert_rows(tmp_path, row)
    assert counts == {"written": 1} and record["answer"] == answer
    assert turns == [SYSTEM, ("user", *asked)]


@pytest.mark.parametrize(
    "row, kind, says",
    [
        ({"question": "Q", "choices": ["1", "2"], "answer": "3"}, "answer", "'3' fits 0 of the options"),
        ({"question": "Q", "choices": ["1", "2"], "answer": "C"}, "answer", "'C' fits 0 of"),
        ({"question": "Q", "choices": ["B", "A"], "answer": "A"}, "answer", "'A' fits 2 of"),
        ({"question": "Q", "choices": ["1", "1"], "answer": "1"}, "answer", "'1' fits 2 of"),
        ({"question": "Q", "choices": "1, 2", "answer": "A"}, "question", "options must be a list of texts"),
        ({"question": "See <image2>.", "answer": "3", "image": ONE}, "question", "<image2> in the question for 1"),
        ({"question": "See <image0>.", "answer": "3", "image": ONE}, "question", "<image0>"),
        ({"question": "See <img_7>.", "answer": "3", "image": ONE}, "question", "<img_7>"),
        ({"question": "Q", "answer": ["1", "2"]}, "answer", r"got \['1', '2'\]"),
        ({"question": "Q", "answer": True}, "answer", "got True"),
        ({"question": "Q", "gold": "1"}, "answer", "got None; if it has another name, give --answer"),
        ({"question": "Q", "answer": "1", "image_1": None, "image_2": ONE}, "image", "not the first"),
        ({"question": " ", "answer": "1", "image": None}, "question", "empty"),
        ({"message": [{"role": "system", "content": "Be brief."}], "answer": "1"}, *LAST),
        ({"message": [{"role": "user", "content": " "}], "answer": "1"}, "question", "empty"),
        ({"message": [{"role": "user", "content": "See <image>"}], "answer": "1"}, "question", "for 0 images"),
        ({"conversations": [{"from": "gpt", "value": "1"}]}, "message", "nobody asks"),
        ({"conversations": [{"from": "bot", "value": "1"}]}, "message", "role 'bot' is none of"),
        ({"conversations": [{"who": "human", "value": "1?"}]}, "message", "with from and value, got"),
        ({"conversations": [{"from": "human", "value": "1?"}]}, "answer", "got None"),
    ],
)
def test_rows_that_cannot_be_answered_are_left_out(tmp_path, row, kind, says):
    with pytest.raises(BadRow, match=says) as error:
        convert_row(Row(tmp_path / "rows.json", 0, row), Conversion(tmp_path / "train.jsonl", tmp_path / "images"))
    assert error.value.kind == kind


def test_training_asks_as_the_evaluation_does(tmp_path):
    source, out = SAMPLES / "mathvision" / "test.jsonl", tmp_path / "train.jsonl"
    items = load_benchmark("mathvision", source).items
    assert run(out, source, system="") == {"written": len(items)}
    for line, item in zip(out.read_text().splitlines(), items, strict=True):
        record = json.loads(line)
        [ours], [theirs] = json.loads(record["message"]), item.messages
        assert [part.get("text") for part in ours["content"]] == [part.get("text") for part in theirs["content"]]
        assert (record["id"], record["answer"]) == (item.id, *item.gold)


def test_images_of_a_column_come_into_chat_turns(tmp_path):
    def row(content, images, **more):
        return {"message": json.dumps([{"role": "user", "content": content}]), "answer": "1", "images": images, **more}

    own = {"type": "image", "image": "own.png"}
    (tmp_path / "own.png").write_bytes(ONE)
    rows = [
        row("In <image>, find x.", [ONE]),
        row("Find x.", [ONE, TWO]),
        row([{"type": "text", "text": "From <image2>"}, {"type": "text", "text": " find x."}], [ONE, TWO]),
        row([own, {"type": "text", "text": "Find x."}], [ONE]),  # the same, told twice
        row([own, {"type": "text", "text": "Find x."}], [ONE, TWO]),
        row([own, {"type": "text", "text": "<image> <image>"}], []),
    ]
    counts, _, turns = convert_rows(tmp_path, *rows)
    assert counts == {"written": 4, "message": 2}
    assert [turn for [turn] in turns] == [
        ("user", "In", ONE, ", find x."),
        ("user", ONE, TWO, "Find x."),
        ("user", ONE, "From", TWO, " find x."),
        ("user", ONE, "Find x."),
    ]


def test_verls_rows(tmp_path):
    row = {
        "data_source": "geometry3k",
        "prompt": [{"role": "user", "content": "<image>Find x."}],
        "images": [{"bytes": ONE, "path": None}],
        "reward_model": {"style": "rule", "ground_truth": "3"},
        "extra_info": {"answer": "4"},
    }
    _, [record], [turns] = convert_rows(tmp_path, row)
    assert record["answer"] == "3" and turns == [("user", ONE, "Find x.")]
    named = Columns(answer="extra_info.answer", id="data_source")
    assert convert_rows(tmp_path, row, columns=named)[1][0].items() >= {"answer": "4", "id": "geometry3k"}.items()


def test_llavas_rows(tmp_path):
    said = [{"from": "human", "value": "<image>\nFind x."}, {"from": "gpt", "value": " 3 "}]
    more = [*said, {"from": "human", "value": "Twice that?"}, {"from": "gpt", "value": "6"}]
    (tmp_path / "own.png").write_bytes(ONE)
    rows = [
        {"id": "a", "image": "own.png", "conversations": said, "answer": None},
        {"id": "b", "image": "own.png", "conversations": more, "answer": "7"},
        {"id": "c", "conversations": [{"from": "system", "value": "Brief."}, *said], "image": "own.png"},
    ]
    counts, records, turns = convert_rows(tmp_path, *rows)
    assert counts == {"written": 3} and [one["answer"] for one in records] == ["3", "7", "3"]
    asked = ("user", ONE, "Find x.")
    assert turns[0] == [SYSTEM, asked] and turns[2] == [("system", "Brief."), asked]
    assert turns[1] == [SYSTEM, asked, ("assistant", " 3 "), ("user", "Twice that?")]


def test_a_mapping_of_ids_to_rows(tmp_path):
    source, out = tmp_path / "rows.json", tmp_path / "train.jsonl"
    source.write_text(
        json.dumps({"7": {"question": "1?", "answer": 1}, "8": {"id": "x", "question": "2?", "answer": 2}})
    )
    assert run(out, source) == {"written": 2}
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["7", "x"]

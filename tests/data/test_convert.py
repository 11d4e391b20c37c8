"""Public data sets as training JSONL: every form of a picture, the usual columns, and what cannot be used."""

import base64
import json

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from megatron_eureka.config.schema import ANSWER_PROMPT, Data
from megatron_eureka.data.convert import Columns, Conversion, convert
from megatron_eureka.data.images import ImageStore
from megatron_eureka.data.prompts import load_prompts
from megatron_eureka.log import logger
from tests.data.pictures import encoded, triangle

ONE, TWO = encoded(triangle(1)), encoded(triangle(2))


def run(out, *inputs, **options):
    return convert(list(inputs), Conversion(out, out.parent / "images", **options))


def content_of(line: str) -> list:
    system, user = json.loads(json.loads(line)["message"])
    assert (system["role"], user["role"], system["content"]) == ("system", "user", ANSWER_PROMPT)
    return user["content"]


def test_every_form_of_a_picture_is_taken_and_bad_rows_are_named(tmp_path, processor, caplog):
    (tmp_path / "own.png").write_bytes(ONE)
    text = base64.b64encode(TWO).decode()
    rows = [
        {"id": "a", "question": "Where? <image> And <image>?", "answer": 3, "image": [{"bytes": text}, "own.png"]},
        {"id": "b", "question": "What is it?", "answer": " $x$ ", "image": f"data:image/png;base64,{text}"},
        {"question": "1 + 1?", "answer": "2", "image": None},
        {"id": "d", "question": "Broken", "answer": "1", "image": "missing.png"},
        {"id": "e", "question": "<image> <image>", "answer": "1", "image": "own.png"},
        {"id": "f", "question": "No answer", "answer": None},
        {"id": "g", "question": "Not a picture", "answer": "1", "image": base64.b64encode(b"GIF89a nothing").decode()},
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
    assert counts == {"written": 4, "picture": 2, "question": 1, "answer": 2, "row": 1, "text": 1}
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
    assert len(list((out.parent / "images").iterdir())) == 2  # a picture that comes twice is written once

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
    picture, text = content_of(out.read_text())
    assert (out.parent / picture["image"]).read_bytes() == ONE
    assert (record["id"].removeprefix("rows.parquet:"), text["text"], record["answer"]) == (
        *(record_id, question, row["answer"]),
    )


def test_chat_turns_pass_through_with_their_pictures(tmp_path):
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
    assert run(out, source) == {"written": 2, "message": 1, "picture": 1, "answer": 2}
    first, second = (json.loads(json.loads(line)["message"]) for line in out.read_text().splitlines())
    assert first[0] == good[0]  # their own system turn stays, and ours is not added
    assert first[1]["content"][1] == parts[1] and [turn["role"] for turn in second] == ["user"]
    for turn in (first[1], second[0]):
        assert (out.parent / turn["content"][0]["image"]).read_bytes() == ONE


def test_small_pictures_in_base64_are_no_names_of_files(tmp_path):
    """Under 1024 characters a text may be a path; a name of more than 255 is none, and asking for it is an error."""
    text = base64.b64encode(encoded(Image.new("RGB", (400, 400)))).decode()
    assert max(map(len, text.split("/"))) > 255 and len(text) < 1024
    source, out = tmp_path / "rows.json", tmp_path / "train.jsonl"
    source.write_text(json.dumps([{"question": "Q", "answer": "1", "image": text}]))
    assert run(out, source) == {"written": 1}
    picture, _ = content_of(out.read_text())
    assert (tmp_path / picture["image"]).read_bytes() == base64.b64decode(text)


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
        ("rows.jsonl", "[" * 200_000, "rows.jsonl:1: not valid JSON"),
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

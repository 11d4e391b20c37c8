"""Every layout of public sets that docs/data.md names: what is asked, the label, and the demonstration."""

import json
import re
from pathlib import Path

import pytest

from megatron_eureka.config.schema import Data
from megatron_eureka.data.bad_row import BadRow
from megatron_eureka.data.images import ImageStore
from megatron_eureka.data.prompts import load_prompts
from megatron_eureka.datasets.convert import Conversion, convert, convert_row
from megatron_eureka.datasets.layouts import Columns
from megatron_eureka.datasets.tables import Row
from megatron_eureka.log import logger
from tests.data.images import encoded, triangle
from tests.datasets.public_layouts import LAYOUTS, ONE, THOUGHT, says

ROOT = Path(__file__).resolve().parents[2]
CASES = ROOT / ".." / "shared" / "cases"
PAGE = (ROOT / "docs" / "data.md").read_text("utf-8")


def written(folder, row, **options):
    """(record, what its turns say, images as their bytes)."""
    (folder / "own.png").write_bytes(ONE)
    options = Conversion(folder / "train.jsonl", folder / "images", **options)
    record = convert_row(Row(folder / "rows.json", 0, row), options)
    return record, [shown(turn, folder) for turn in json.loads(record["message"])]


def shown(turn, folder):
    content = turn["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    said = [part["text"] if part["type"] == "text" else (folder / part["image"]).read_bytes() for part in parts]
    return turn["role"], *said


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_is_asked_the_label_and_the_demonstration(tmp_path, processor, name):
    row, turns, answer, response = LAYOUTS[name]
    if "image_urls" in row:
        row = row | {"image_urls": [url.format(folder=tmp_path) for url in row["image_urls"]]}
    record, found = written(tmp_path, row)
    assert found == turns
    assert (record.get("answer"), record.get("response")) == (answer, response)
    (tmp_path / "train.jsonl").write_text(json.dumps(record))
    store = ImageStore.from_options(Data(), processor.image_processor)
    loaded = load_prompts([tmp_path / "train.jsonl"], Data(), processor, store, with_responses=response is not None)
    assert loaded.prompts[0].answer == (answer or "")
    said = processor.tokenizer.decode(loaded.responses[0])
    assert said == (f"{response}<|im_end|>" if response else "")


def test_the_page_names_each_layout_and_no_other():
    table = PAGE.partition("| layout |")[2].partition("\n\n")[0]
    rows = [row.strip("|").split(" | ") for row in table.splitlines()[2:]]
    named = [name.strip() for row in rows for name in re.split(r", |; ", row[-1]) if name.strip()]
    assert sorted(named) == sorted(LAYOUTS)


@pytest.mark.parametrize(
    "row, kind, reason",
    [
        ({"messages": [says("user", "1?")], "images": []}, "answer", "got None"),
        ({"messages": [says("user", "1?"), says("assistant", THOUGHT)], "videos": ["a.mp4"]}, "message", "has videos"),
        ({"messages": [says("user", "<image>?"), says("assistant", "1")]}, "question", "for 0 images"),
        ({"messages": [says("assistant", "1")]}, "message", "nobody asks"),
        ({"messages": [{"role": "user", "content": None}]}, "message", "with from and value, got"),
        ({"messages": "[{"}, "message", "no JSON"),
        ({"messages": [says("user", "1?<|im_end|>"), says("assistant", "1")]}, "message", "<|im_end|> in a text"),
        ({"messages": [says("user", "1?"), says("assistant", "<|image_pad|>")]}, "response", "holds <|image_pad|>"),
        ({"problem": "1?", "solution": "One adds both sides, and so on." * 9}, "answer", "solution has no answer in"),
        ({"problem": "1?", "solution": "<answer>1"}, "answer", "one pair of <answer> tags"),
        ({"query": "1?", "response": "1", "history": ["0?"]}, "message", "pairs of question and answer"),
        ({"prompt": [says("user", "1?")], "completion": [says("robot", "1")]}, "response", "role 'robot'"),
        ({"question": "1?", "answer": "1", "image": "http://x/y.png"}, "image", "read from disk only"),
    ],
)
def test_rows_that_are_no_training_lines_are_named(tmp_path, row, kind, reason):
    with pytest.raises(BadRow) as error:
        written(tmp_path, row)
    assert error.value.kind == kind and reason in str(error.value)


def test_an_assistants_last_turn_is_a_demonstration_in_every_layout_of_turns(tmp_path):
    turns = [says("user", "2 * 3?"), says("assistant", "6")]
    for name in ("message", "prompt", "conversations", "messages"):
        record, found = written(tmp_path, {name: turns}, system="")
        assert found == [("user", "2 * 3?")] and (record["answer"], record["response"]) == ("6", "6")
    record, _ = written(tmp_path, {"messages": json.dumps(turns), "answer": "7", "id": "a"})
    assert (record["id"], record["answer"], record["response"]) == ("a", "7", "6")


def test_columns_of_other_names_and_many_responses(tmp_path):
    row = {"question": "1?", "answer": "1", "cot": THOUGHT}
    assert written(tmp_path, row, columns=Columns(response="cot"))[0]["response"] == THOUGHT
    row = {"question": "1?", "answer": "1", "response": ["1", "2"]}  # what a model drew, not what it shall say
    assert "response" not in written(tmp_path, row)[0]
    with pytest.raises(BadRow, match="response must be a text"):
        written(tmp_path, row, columns=Columns(response="response"))


def test_demonstrations_that_do_not_do_what_their_system_turn_asks_for_are_told(tmp_path, caplog):
    rows = [{"query": "1?", "response": response} for response in ("1", THOUGHT, "2")]
    rows.append({"query": "1?", "response": "1", "system": "You help."})
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    logger.addHandler(caplog.handler)
    try:
        convert([tmp_path / "rows.json"], Conversion(tmp_path / "train.jsonl", tmp_path / "images"))
        assert "2 responses have no <answer>, which their system turn asks for" in caplog.text
        caplog.clear()
        convert([tmp_path / "rows.json"], Conversion(tmp_path / "train.jsonl", tmp_path / "images", system=""))
        assert not caplog.text
    finally:
        logger.removeHandler(caplog.handler)


@pytest.mark.parametrize(
    "name, answers, responses", [("lf.json", ["6"], ["6"]), ("swift.jsonl", ["6", "4"], [THOUGHT])]
)
def test_sets_for_ms_swift_and_llama_factory(tmp_path, name, answers, responses):
    source = CASES / "messages_layout" / name
    if not source.exists():
        pytest.skip(f"{source} is not here")
    convert([source], Conversion(tmp_path / "train.jsonl", tmp_path / "images"))
    records = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert [record["answer"] for record in records] == answers
    said = [record["response"].replace("2*3", "2 * 3") for record in records if "response" in record]
    assert said == responses
    image = (CASES / "messages_layout" / "p28.png").read_bytes()
    for record in records:
        parts = json.loads(record["message"])[-1]["content"]
        assert [part["type"] for part in parts] == ["image", "text"]
        assert (tmp_path / parts[0]["image"]).read_bytes() == image


@pytest.mark.parametrize(
    "row, answer",
    [
        ({"question": "1?", "answer": "<answer> 1 </answer>"}, "1"),
        ({"question": "1?", "answer": [r"$\boxed{\frac{1}{2}}$"]}, r"\frac{1}{2}"),
        ({"question": "Which?", "options": ["one", "two"], "answer": "<answer>two</answer>"}, "B"),
        ({"message": [says("user", "1?")], "answer": r"\boxed{x}"}, "x"),
        ({"prompt": [says("user", "1?")], "reward_model": {"ground_truth": "<answer>1</answer>"}}, "1"),
    ],
)
def test_labels_are_bare_in_every_column(tmp_path, row, answer):
    assert written(tmp_path, row)[0]["answer"] == answer


def test_images_lie_beside_the_table_or_one_folder_up(tmp_path):
    """As the other readers of public sets look for them."""
    places = [("set/a.png", "a.png"), ("set/images/b.png", "b.png"), ("c.png", "c.png"), ("images/d.png", "d.png")]
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "images").mkdir()
    rows = []
    for number, (file, name) in enumerate(places):
        (tmp_path / file).write_bytes(encoded(triangle(number)))
        rows.append({"question": "1?", "answer": "1", "image": {"bytes": None, "path": name}})
        own = [{"type": "image", "image": name}, {"type": "text", "text": "1?"}]
        rows.append({"message": [says("user", own)], "answer": "1"})
    (tmp_path / "set" / "rows.json").write_text(json.dumps(rows))
    out = Conversion(tmp_path / "out" / "train.jsonl", tmp_path / "out" / "images", system="")
    assert convert([tmp_path / "set" / "rows.json"], out) == {"written": 8}
    lines = (tmp_path / "out" / "train.jsonl").read_text().splitlines()
    for number in range(4):
        for line in lines[2 * number : 2 * number + 2]:
            image = json.loads(json.loads(line)["message"])[0]["content"][0]["image"]
            assert (tmp_path / "out" / image).read_bytes() == encoded(triangle(number))

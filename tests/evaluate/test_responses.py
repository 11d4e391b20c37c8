"""Files of responses: ours survive a kill and refuse other settings, others' are read in the forms that exist."""

import json

import pytest

from megatron_eureka.evaluate.responses import Response, ResponseFile, read_responses

SETTINGS = {"model": "/m", "temperature": 0.0}
ONE = Response("a", ("two\u2028lines\n", "b"), ("stop", "length"))
TWO = Response("b", (), (), "too long")
THREE = Response("c", ("π", ""), ("stop", "stop"))


def test_chunks_are_read_again(tmp_path):
    file = ResponseFile(tmp_path / "model" / "k12.responses.jsonl", SETTINGS)
    assert file.read() == {} and file.open() == {}
    file.append([ONE, TWO])
    file.append([THREE])
    file.close()
    again = ResponseFile(file.path, SETTINGS)
    assert again.read() == {"a": ONE, "b": TWO, "c": THREE}
    assert json.loads(file.settings_path.read_text()) == SETTINGS


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_line_costs_itself_alone(tmp_path, cut):
    file = ResponseFile(tmp_path / "k12.responses.jsonl", SETTINGS)
    file.open()
    file.append([ONE, THREE])
    file.close()
    whole = file.path.read_bytes()
    file.path.write_bytes(whole[:-cut])
    assert file.read() == {"a": ONE}
    assert file.open() == {"a": ONE}
    file.append([THREE])
    file.close()
    assert file.path.read_bytes() == whole


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "k12.responses.jsonl"
    path.write_text('{"id": "a"}\n{"id": "b"}\n')
    with pytest.raises(ValueError, match=r"k12.responses.jsonl:1 is broken \('responses'\). Remove the line"):
        ResponseFile(path, SETTINGS).read()


def test_other_settings_are_refused_with_both_named(tmp_path):
    file = ResponseFile(tmp_path / "k12.responses.jsonl", SETTINGS)
    file.open()
    file.close()
    other = ResponseFile(file.path, {"model": "/m", "temperature": 1.0, "seed": 3})
    for rejected in (other.check, other.open):
        with pytest.raises(ValueError, match="seed was None, now 3; temperature was 0.0, now 1.0.*--overwrite"):
            rejected()


def test_two_writers_are_refused(tmp_path):
    file = ResponseFile(tmp_path / "k12.responses.jsonl", SETTINGS)
    file.open()
    with pytest.raises(ValueError, match="Another process is writing"):
        ResponseFile(file.path, SETTINGS).open()
    file.close()
    ResponseFile(file.path, SETTINGS).open()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("r.jsonl", '{"id": "a", "response": "x"}\n{"id": "b", "response": "y"}\n'),
        ("r.jsonl", '{"id": "a", "responses": ["x"]}\n{"pid": "b", "prediction": "y"}\n'),
        ("r.json", '[{"sample_index": "a", "model_answer": "x"}, {"id": "b", "output": "y"}]'),
        ("r.json", '{"a": {"response": "x"}, "b": {"pid": "b", "response": "y"}}'),
        ("r.json", '{"a": "x", "b": ["y"]}'),
        ("r.json", '[{"index": "a", "prediction": "x"}, {"index": "b", "prediction": "y"}]'),  # VLMEvalKit
    ],
)
def test_others_files(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    found, unusable = read_responses(tmp_path / name)
    assert found == {"a": Response("a", ("x",)), "b": Response("b", ("y",))} and unusable == 0


def test_our_own_files_are_read_too(tmp_path):
    file = ResponseFile(tmp_path / "k12.responses.jsonl", SETTINGS)
    file.open()
    file.append([ONE, TWO, THREE])
    file.close()
    found, unusable = read_responses(file.path)
    assert {name: response.responses for name, response in found.items()} == {
        "a": ONE.responses,
        "b": (),
        "c": THREE.responses,
    }
    assert unusable == 0


def test_rows_without_id_or_text_are_counted(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"id": 1, "response": "x"}\n{"id": 2}\n{"response": "y"}\n[]\n{"id": 3, "response": [1]}\n{\n')
    found, unusable = read_responses(path)
    assert list(found) == ["1"] and unusable == 5


@pytest.mark.parametrize(
    ("text", "message"), [(None, "is no file"), ("{}", "none of the 1 rows"), ("", "none of the 0 rows")]
)
def test_files_without_responses_are_refused(tmp_path, text, message):
    path = tmp_path / "r.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_responses(path)


def test_of_unknown_columns_those_that_would_do_are_named(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"name": "a", "said": "x"}\n{"name": "b", "score": 1}\n')
    with pytest.raises(ValueError, match=r"an id \(id, pid.*\) and a text \(responses.*found: name, said, score."):
        read_responses(path)

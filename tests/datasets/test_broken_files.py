"""Broken files: whatever PIL raises is one error that names the image, and bytes that are no UTF-8 name the file."""

import json
import os
import struct
from io import BytesIO

import pytest
from PIL import features

from megatron_eureka.config.load import load_config
from megatron_eureka.config.schema import Data
from megatron_eureka.data import image_files
from megatron_eureka.data.bad_row import BadRow
from megatron_eureka.data.images import ImageStore
from megatron_eureka.data.prompts import load_prompts
from megatron_eureka.datasets.check import check_files
from megatron_eureka.datasets.convert import Conversion, convert_row
from megatron_eureka.datasets.fingerprint import fingerprint
from megatron_eureka.datasets.images import ImageFolder
from megatron_eureka.datasets.items import read_other_items
from megatron_eureka.datasets.tables import Row, read_table
from tests.data.images import encoded, triangle


def dds():
    """A header that asks for a pixel format which PIL does not know: NotImplementedError."""
    return (
        b"DDS " + struct.pack("<7I", 124, 0, 8, 8, 0, 0, 0) + bytes(44) + struct.pack("<8I", 32, *[0] * 7) + bytes(20)
    )


def avif():
    """Cut in its pixels: RuntimeError."""
    if not features.check("avif"):
        pytest.skip("this Pillow does not know AVIF")
    data = BytesIO()
    triangle(1).save(data, "AVIF")
    return data.getvalue()[: len(data.getvalue()) // 2]


@pytest.mark.parametrize("broken", [dds, avif])
def test_errors_of_any_format_are_one(processor, tmp_path, broken):
    data = broken()
    with pytest.raises(ValueError, match="not a readable image"):
        fingerprint(data)
    with pytest.raises(BadRow, match="not a readable image") as error:
        ImageFolder(tmp_path).copy(data, [tmp_path])
    assert error.value.kind == "image" and not list(tmp_path.iterdir())
    (tmp_path / "broken").write_bytes(data)
    store = ImageStore(processor.image_processor, 784, 640 * 784, verify=True)
    with pytest.raises(ValueError, match="broken is not a readable image"):
        store.add("broken", tmp_path)


def test_rows_that_are_no_utf_8_are_named(tmp_path):
    lines, rows = tmp_path / "rows.jsonl", tmp_path / "rows.json"
    for path in (lines, rows):
        path.write_bytes(b'{"question": "A"}\n\n{"question": "\xff"}\n{"question": "B"}\n')
    first, second, third = read_table(lines)
    broken = second.values
    assert (
        (first.number, second.number, third.number) == (1, 3, 4)
        and isinstance(broken, BadRow)
        and broken.kind == "json"
    )
    assert "not valid JSON" in str(broken) and "0xff" in str(broken)
    with pytest.raises(ValueError, match="rows.json: not valid JSON: .*0xff"):
        list(read_table(rows))


def test_options_that_are_no_utf_8_name_their_file(tmp_path):
    (tmp_path / "good.yaml").write_text("train: {steps: 3}\n")
    (tmp_path / "recipe.yaml").write_bytes(b"train:\n  steps: 3 # \xff\n")
    with pytest.raises(ValueError, match="recipe.yaml: not readable as YAML: .*0xff"):
        load_config(tmp_path / "good.yaml", [str(tmp_path / "recipe.yaml")])


def readers(folder, processor):
    """Everybody who reads the path of an image, by name: a function of the path that raises or reports."""
    store = ImageStore(processor.image_processor, 784, 640 * 784)
    turn = [{"role": "user", "content": [{"type": "image", "image": "PATH"}, {"type": "text", "text": "?"}]}]

    def line(path):
        text = json.dumps({"message": turn, "answer": "1"}).replace('"PATH"', json.dumps(path))
        (folder / "line.jsonl").write_text(text)
        return folder / "line.jsonl"

    def check(path):
        (problem,) = check_files([line(path)], lambda labels: [("number", None) for _ in labels]).problems
        raise ValueError(f"{problem.kind}: {problem.reason}")

    def against(path):
        test = folder / "test.json"
        test.write_text(json.dumps([{"question": "?", "image": path}]))
        (problem,) = read_other_items([test])
        raise ValueError(f"{problem.kind}: {problem.reason}")

    def row(path):
        conversion = Conversion(folder / "out.jsonl", folder / "images")
        values = {"question": "?", "answer": "1", "image": path}
        convert_row(Row(folder / "rows.json", 0, values), conversion)

    return {
        "training": lambda path: load_prompts([line(path)], Data(), processor, store),
        "check": check,
        "against": against,
        "convert": row,
        "evaluation": lambda path: ImageFolder(None).source(path, [folder]),
    }


READERS = ("training", "check", "against", "convert", "evaluation")


@pytest.mark.parametrize("reader", READERS)
def test_paths_that_lead_to_no_image_are_refused_by_every_reader_in_the_same_words(
    processor, tmp_path, monkeypatch, reader
):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("/dev/zero")
    (tmp_path / "large.png").write_bytes(bytes(1001))
    (tmp_path / "text.png").write_text("nothing")
    (tmp_path / "most.png").write_bytes(encoded(triangle(1, (28, 28))))
    monkeypatch.setattr(image_files, "MAX_BYTES", 1000)
    read = readers(tmp_path, processor)[reader]
    for path, says in (
        ("/dev/zero", "/dev/zero is no regular file"),
        ("link", "link is no regular file"),
        ("pipe", "pipe is no regular file"),
        ("folder", "folder: Is a directory"),
        ("large.png", "large.png is larger than 0 MiB"),
    ):
        with pytest.raises(ValueError, match=says):
            read(path)
    with pytest.raises(ValueError, match="text.png'? is not a readable image: no format that Pillow knows") as error:
        read("text.png")
    assert "BytesIO" not in str(error.value)
    if reader in ("training", "convert", "evaluation"):
        read("most.png")  # fewer bytes than the bound


@pytest.mark.parametrize("name", ["a\0b", "\ud83d.png", "x" * 5000])
def test_names_that_no_file_can_have(tmp_path, name):
    with pytest.raises(ValueError, match=r"is no name of a file|File name too long"):
        image_files.read_image_file(f"{tmp_path}/{name}")


def test_files_without_a_size_are_bounded_too(monkeypatch):
    """Files of /proc say that they are empty."""
    monkeypatch.setattr(image_files, "MAX_BYTES", 10)
    with pytest.raises(ValueError, match="is larger than"):
        image_files.read_image_file("/proc/self/status")

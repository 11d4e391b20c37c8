"""Broken files: whatever PIL raises is one error that names the picture, and bytes that are no UTF-8 name the file."""

import struct
from io import BytesIO

import pytest
from PIL import features

from megatron_eureka.config.load import load_config
from megatron_eureka.data.fingerprint import fingerprint
from megatron_eureka.data.images import ImageStore
from megatron_eureka.data.records import BadRow
from megatron_eureka.data.rows import numbered_rows, read_rows, save_picture
from tests.data.pictures import triangle


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
    with pytest.raises(ValueError, match="not a readable picture"):
        fingerprint(data)
    with pytest.raises(BadRow, match="not a readable picture") as error:
        save_picture(data, tmp_path)
    assert error.value.kind == "picture" and not list(tmp_path.iterdir())
    (tmp_path / "broken").write_bytes(data)
    store = ImageStore(processor.image_processor, 784, 640 * 784, verify=True)
    with pytest.raises(ValueError, match="broken is not a readable picture"):
        store.add("broken", tmp_path)


def test_rows_that_are_no_utf_8_are_named(tmp_path):
    lines, rows = tmp_path / "rows.jsonl", tmp_path / "rows.json"
    for path in (lines, rows):
        path.write_bytes(b'{"question": "A"}\n\n{"question": "\xff"}\n{"question": "B"}\n')
    (first, _), (second, broken), (third, _) = numbered_rows(lines)
    assert (first, second, third) == (1, 3, 4) and isinstance(broken, BadRow) and broken.kind == "json"
    assert "not valid JSON" in str(broken) and "0xff" in str(broken)
    with pytest.raises(ValueError, match="rows.json: not valid JSON: .*0xff"):
        list(read_rows(rows))


def test_options_that_are_no_utf_8_name_their_file(tmp_path):
    (tmp_path / "good.yaml").write_text("train: {steps: 3}\n")
    (tmp_path / "recipe.yaml").write_bytes(b"train:\n  steps: 3 # \xff\n")
    with pytest.raises(ValueError, match="recipe.yaml: not readable as YAML: .*0xff"):
        load_config(tmp_path / "good.yaml", [str(tmp_path / "recipe.yaml")])

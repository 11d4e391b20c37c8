"""What tests of rejections share: a look at a folder before and after, and one message with all its parts."""

import pytest
from safetensors.torch import load_file, save_file

K_PROJ = "model.layers.1.self_attn.k_proj.weight"


def snapshot(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def rejected(convert, source, target, *parts, **options):
    """One message with all parts; the source is untouched, and beside it there is nothing new."""
    before, beside = snapshot(source), set(source.parent.iterdir())
    with pytest.raises(ValueError) as error:
        convert(source, target, **options)
    for part in parts:
        assert part in str(error.value)
    assert snapshot(source) == before
    assert set(source.parent.iterdir()) == beside

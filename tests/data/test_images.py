"""The image store against transformers' image processor: grids, pixels, one decode, bounded memory."""

import base64
import hashlib
import os
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from qwen_vl_utils import fetch_image
from qwen_vl_utils.vision_process import to_rgb

from megatron_eureka.config.schema import Data
from megatron_eureka.data.decoding import on_white
from megatron_eureka.data.images import ImageStore
from tests.data.images import drawing_in, triangle


def image(width, height, seed=0, mode="RGB"):
    channels = len(mode) if mode != "L" else 0
    shape = (height, width, channels) if channels else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), mode)


def png(image):
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def make_store(processor, min_pixels=784, max_pixels=640 * 784, **options):
    return ImageStore(processor.image_processor, min_pixels, max_pixels, **options)


@pytest.mark.parametrize(
    "size, grid",
    [
        ((28, 28), (1, 2, 2)),
        ((56, 28), (1, 2, 4)),
        ((100, 61), (1, 4, 8)),  # 100 / 28 = 3.6 -> 4, 61 / 28 = 2.2 -> 2 blocks of 2 x 2 patches
        ((5, 9), (1, 2, 2)),  # each side takes one block at least
    ],
)
def test_grids_by_hand(processor, tmp_path, size, grid):
    (tmp_path / "a.png").write_bytes(png(image(*size)))
    store = make_store(processor)
    key = store.add("a.png", tmp_path)
    assert key.grid_thw == grid and key.num_tokens == grid[1] * grid[2] // 4
    assert store.counters["decoded"] == 0  # the header is enough
    assert store.image(key).size == (grid[2] * 14, grid[1] * 14)


@pytest.mark.parametrize("size", [(28, 28), (100, 61), (5, 9), (1000, 900), (2000, 11), (31, 1400)])
def test_the_models_processor_has_nothing_to_resize(processor, tmp_path, size):
    """Same tokens and the same pixels, bit for bit, whether transformers may resize our image or not."""
    (tmp_path / "a.png").write_bytes(png(image(*size)))
    store = make_store(processor)
    key = store.add("a.png", tmp_path)
    bounds = {"shortest_edge": 784, "longest_edge": 640 * 784}
    theirs = processor.image_processor(images=[store.image(key)], size=bounds, return_tensors="pt")
    assert tuple(theirs["image_grid_thw"][0].tolist()) == key.grid_thw
    ours = store.pixels(key)
    assert ours.dtype == torch.float32 and ours.shape == (key.grid_thw[1] * key.grid_thw[2], 1176)
    assert torch.equal(ours, theirs["pixel_values"])


def test_pixels_by_hand(processor, tmp_path):
    """An image of one colour: every value of a channel is (level / 255 - mean) / std."""
    Image.new("RGB", (28, 28), (0, 128, 255)).save(tmp_path / "a.png")
    store = make_store(processor)
    rows = store.pixels(store.add("a.png", tmp_path)).view(4, 3, 2, 14, 14)  # patches, channels, frames, height, width
    mean, std = processor.image_processor.image_mean, processor.image_processor.image_std
    for channel, level in enumerate((0, 128, 255)):
        expected = torch.tensor((level / 255 - mean[channel]) / std[channel])
        # fp32 arithmetic in another order than here: a few units in the last place of numbers around 2
        torch.testing.assert_close(rows[:, channel], expected.expand(4, 2, 14, 14), atol=1e-6, rtol=0)


def test_all_kinds_of_sources_give_one_key(processor, tmp_path):
    data = png(image(56, 28))
    (tmp_path / "a.png").write_bytes(data)
    store = make_store(processor)
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    sources = ["a.png", str(tmp_path / "a.png"), f"file://{tmp_path}/a.png", uri]
    keys = {store.add(source, tmp_path) for source in sources}
    assert len(keys) == 1
    assert keys.pop().digest == hashlib.sha256(data + b"|784|501760").hexdigest()
    assert make_store(processor, min_pixels=3136).add(uri).digest != store.add(uri).digest  # other bounds, other key


def test_each_image_is_decoded_once_in_bounded_memory(processor, tmp_path):
    store = make_store(processor, cache_mib=1)
    keys = []
    for number in range(5):  # 0.43 MB each when resized: two of them fit into 1 MiB
        (tmp_path / f"{number}.png").write_bytes(png(image(392, 364, seed=number)))
        keys.append(store.add(f"{number}.png", tmp_path))
    first = [np.asarray(store.image(key)) for key in keys]
    second = [np.asarray(store.image(key)) for key in keys]
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert store.counters == {"added": 5, "decoded": 5, "memory_hits": 0, "disk_hits": 5}
    store.image(keys[-1])
    assert store.counters["memory_hits"] == 1
    assert store._cached_bytes == 2 * 392 * 364 * 3
    np.testing.assert_array_equal(first[0], np.asarray(image(392, 364, seed=0)))  # multiples of 28 stay as they are


def test_ranks_can_share_the_spill_folder(processor, tmp_path):
    (tmp_path / "a.png").write_bytes(png(image(392, 364)))
    (tmp_path / "b.png").write_bytes(png(image(644, 644)))
    stores = [make_store(processor, cache_mib=1, spill_dir=tmp_path / "spill") for _ in range(2)]
    for store in stores:
        a, b = store.add("a.png", tmp_path), store.add("b.png", tmp_path)
        store.image(a), store.image(b)
    assert stores[0].counters["decoded"] == 2 and stores[1].counters["disk_hits"] >= 1
    assert sorted(file.name for file in (tmp_path / "spill").iterdir()) == sorted([a.digest, b.digest])


def test_nodes_that_spill_one_image_at_once_do_not_take_each_others_file(processor, tmp_path, monkeypatch):
    """Two stores of one process id, as containers of two nodes have: the second spills within the first one's write."""
    (tmp_path / "a.png").write_bytes(png(image(448, 448)))
    first, second = (make_store(processor, spill_dir=tmp_path / "spill") for _ in range(2))
    key = first.add("a.png", tmp_path)
    assert second.add("a.png", tmp_path) == key
    for store in (first, second):
        store.image(key)
        store._cache_bytes = 0  # whatever is kept from now on goes to disk
    replace, waiting = os.replace, [second]

    def interrupted(source, target):
        if waiting:
            store = waiting.pop()
            store._keep(key.digest, store.image(key))
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    first._keep(key.digest, first.image(key))
    assert [file.name for file in (tmp_path / "spill").iterdir()] == [key.digest] and not waiting
    assert (tmp_path / "spill" / key.digest).stat().st_size == 448 * 448 * 3


def test_transparent_images_get_a_white_ground(processor, tmp_path):
    Image.new("RGBA", (28, 28), (0, 0, 0, 0)).save(tmp_path / "a.png")
    store = make_store(processor)
    assert store.image(store.add("a.png", tmp_path)).getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize(
    "mode, kind",
    [
        *(("LA", "PNG"), ("P", "PNG"), ("RGBA", "GIF"), ("LA", "TIFF"), ("RGBA", "WEBP"), ("I;16", "PNG")),
        *(("I;16", "TIFF"), ("I", "TIFF"), ("I of 8 bits", "TIFF"), ("F", "TIFF"), ("F to 255", "TIFF")),
    ],
)
def test_a_drawing_of_any_mode_is_black_on_white(processor, tmp_path, mode, kind):
    """A GIF and a palette of 16 colours lose half-tones of the outline."""
    drawing_in(mode).save(tmp_path / "a", kind, **({"lossless": True} if kind == "WEBP" else {}))
    triangle(1).convert("L").save(tmp_path / "plain.png")
    store = make_store(processor)
    seen, plain = (np.asarray(store.image(store.add(name, tmp_path)), dtype=np.int16) for name in ("a", "plain.png"))
    exact = mode != "P" and kind != "GIF"
    assert (not exact or np.array_equal(seen, plain)) and abs(seen.mean() - plain.mean()) < 0.5


def test_one_level_that_stands_for_nothing_is_white(processor, tmp_path):
    drawing_in("I;16").point(lambda value: value * 0 + 7).save(tmp_path / "a.png", transparency=7)
    store = make_store(processor)
    assert store.image(store.add("a.png", tmp_path)).getextrema() == ((255, 255),) * 3


def test_rgba_has_the_pixels_of_qwens_own_function(processor, tmp_path):
    data = png(image(100, 61, mode="RGBA"))
    (tmp_path / "a.png").write_bytes(data)
    theirs = fetch_image({"image": Image.open(BytesIO(data)), "min_pixels": 784, "max_pixels": 640 * 784})
    store = make_store(processor)
    assert store.image(store.add("a.png", tmp_path)).tobytes() == theirs.tobytes()
    np.testing.assert_array_equal(on_white(Image.open(BytesIO(data))), to_rgb(Image.open(BytesIO(data))))


def test_an_orientation_in_exif_is_not_applied_as_in_qwens_own_function(processor, tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # turn by 90 degrees
    image(56, 28).save(tmp_path / "a.png", exif=exif)
    store = make_store(processor)
    theirs = fetch_image({"image": str(tmp_path / "a.png"), "min_pixels": 784, "max_pixels": 640 * 784})
    assert store.image(store.add("a.png", tmp_path)).size == theirs.size == (56, 28)


def test_bad_sources_are_named(processor, tmp_path):
    data = png(image(56, 56))
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    buffer = BytesIO()
    image(600, 600).save(buffer, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(buffer.getvalue()[:5000])
    (tmp_path / "thin.png").write_bytes(png(image(900, 3)))
    store = make_store(processor)
    for source, part in [
        ("gone.png", "No such file"),
        ("text.png", "not a readable image"),
        ("cut.png", "not a readable image"),
        ("thin.png", "aspect ratio"),
        ("https://a.b/c.png", "Download it"),
        ("data:image/png;base64,@@@", "not valid base64"),
        ("data:text/plain;base64,QUJD", "expected data:image"),
    ]:
        with pytest.raises(ValueError, match=part) as error:
            store.add(source, tmp_path)
        assert source[:20] in str(error.value)
    key = store.add("cut.jpg", tmp_path)  # its header is fine
    with pytest.raises(ValueError, match="cut.jpg is not a readable image"):
        store.image(key)
    with pytest.raises(ValueError, match="cut.jpg is not a readable image"):
        make_store(processor, verify=True).add("cut.jpg", tmp_path)


def test_changed_files_and_unknown_keys_are_refused(processor, tmp_path):
    (tmp_path / "a.png").write_bytes(png(image(28, 28)))
    store = make_store(processor)
    key = store.add("a.png", tmp_path)
    with pytest.raises(ValueError, match="not in this store"):
        make_store(processor).image(key)
    (tmp_path / "a.png").write_bytes(png(image(28, 28, seed=1)))
    with pytest.raises(ValueError, match="changed since"):
        store.image(key)


def test_bounds_that_resize_twice_are_refused(processor, tmp_path):
    """40 x 40 pixels between 1200 and 1500: 1 x 1 block (784) is too small, 2 x 1 (1568) too large."""
    (tmp_path / "a.png").write_bytes(png(image(40, 40)))
    with pytest.raises(ValueError, match="resize again"):
        make_store(processor, min_pixels=1200, max_pixels=1500).add("a.png", tmp_path)


def test_from_options(processor):
    store = ImageStore.from_options(
        Data(min_pixels=784, max_pixels=1568, verify_images=True), processor.image_processor
    )
    assert (store.min_pixels, store.max_pixels, store.verify) == (784, 1568, True)
    temporary = store._spill
    store.close()
    assert not temporary.exists()

"""The demo's data: right answers, disjoint splits, the stated imperfection, the same bytes for the same seed."""

import hashlib
import json
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from examples.digits.data import QUESTIONS, corpus, load_scans, solve, write_data

ANSWERS = {
    "Which digit is shown?": lambda digits: digits[0],
    "What is the sum of the two digits?": sum,
    "What is the difference of the two digits?": lambda digits: max(digits) - min(digits),
    "Which of the two digits is larger?": max,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("digits"), seed=0)


def read(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").open()]


def parts(line):
    image, text = json.loads(line["message"])[0]["content"]
    return image["image"], text["text"]


def scans(line):
    return tuple(int(number) for number in re.findall(r"\d+", parts(line)[0]))


def test_counts_and_balance(folder):
    counts = {name: len(read(folder, name)) for name in ("sft", "train", "tune", "heldout", "heldout_swapped")}
    assert counts == {"sft": 320 * 64, "train": 3000, "tune": 300, "heldout": 600, "heldout_swapped": 600}
    assert set(Counter(parts(line)[1] for line in read(folder, "heldout")).values()) == {200}
    ids = [line["id"] for name in counts for line in read(folder, name)]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", ["sft", "train", "tune", "heldout"])
def test_answers_are_right_by_the_scans_own_labels(folder, name):
    labels = load_digits().target
    for line in read(folder, name):
        digits = [int(labels[scan]) for scan in scans(line)]
        assert line["answer"] == str(ANSWERS[parts(line)[1]](digits))


def test_splits_share_no_scan_and_no_image(folder):
    used = {name: {scan for line in read(folder, name) for scan in scans(line)} for name in ("sft", "train", "tune")}
    heldout = {scan for line in read(folder, "heldout") for scan in scans(line)}
    assert not heldout & (used["sft"] | used["train"] | used["tune"])
    split = load_scans(0)
    assert (len(split.train), len(split.heldout), len(set(split.train) | set(split.heldout))) == (1200, 597, 1797)
    images = [{parts(line)[0] for line in read(folder, name)} for name in ("sft", "train", "tune", "heldout")]
    assert sum(map(len, images)) == len(set.union(*images))
    assert len(images[1]) == 3000


def test_images_are_the_scans(folder):
    line = read(folder, "heldout")[0]
    pair = np.asarray(Image.open(folder / parts(line)[0]))
    assert pair.shape == (28, 56) and pair.dtype == np.uint8
    left, right = (load_digits().images[scan] for scan in scans(line))
    # scaled back by block means, the scan is blurred (correlation 0.97 here); scans of other digits stay far below
    for half, scan in ((pair[:, :28], left), (pair[:, 28:], right)):
        small = np.asarray(Image.fromarray(half).resize((8, 8), Image.Resampling.BOX))
        assert np.corrcoef(small.ravel(), scan.ravel())[0, 1] > 0.9


def test_demonstrations_read_right_and_add_too_often(folder):
    labels = load_digits().target
    added, asked = 0, 0
    for line in read(folder, "sft"):
        digits = [int(labels[scan]) for scan in scans(line)]
        found = re.fullmatch(r"<think> (\d)(?: (\+|-|max) (\d))? </think><answer> (\d+) </answer>", line["response"])
        assert [int(digit) for digit in (found[1], found[3]) if digit] == digits
        task = {"+": "sum", "-": "difference", "max": "larger", None: "name"}[found[2]]
        assert int(found[4]) == ANSWERS[QUESTIONS[task]](digits)
        if parts(line)[1] in (QUESTIONS["difference"], QUESTIONS["larger"]):
            asked, added = asked + 1, added + (task == "sum")
        else:
            assert parts(line)[1] == QUESTIONS[task]
    # about 10,240 lines: the standard deviation of the share is sqrt(0.65 x 0.35 / 10240) = 0.005
    assert abs(added / asked - 0.65) < 0.02


def test_the_control_exchanges_every_image_and_keeps_the_labels(folder):
    lines, swapped = read(folder, "heldout"), read(folder, "heldout_swapped")
    for line, other in zip(lines, swapped, strict=True):
        assert (line["answer"], parts(line)[1]) == (other["answer"], parts(other)[1])
        assert scans(line) != scans(other)
    assert sorted(map(scans, lines)) == sorted(map(scans, swapped))
    labels = load_digits().target
    right = [
        line["answer"] == str(ANSWERS[parts(line)[1]]([int(labels[scan]) for scan in scans(line)])) for line in swapped
    ]
    assert np.mean(right) < 0.25  # the labels no longer fit the images, but by chance


def test_same_seed_same_bytes(folder, tmp_path):
    def digest(root):
        files = sorted(path for path in root.rglob("*") if path.is_file())
        return hashlib.sha256(
            b"".join(path.relative_to(root).as_posix().encode() + path.read_bytes() for path in files)
        )

    assert digest(write_data(tmp_path / "again", seed=0)).digest() == digest(folder).digest()


def test_small_pieces():
    assert [solve(task, (3, 5)) for task in ("sum", "difference", "larger")] == [8, 2, 5]
    assert "<think> 3 - 5 </think><answer> 2 </answer>" in corpus()

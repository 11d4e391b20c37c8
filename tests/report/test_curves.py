"""The reward curve from a made-up metrics.jsonl."""

import json

import numpy as np
import pytest
from PIL import Image

from megatron_eureka.evaluate.heldout import Evaluation, Item
from megatron_eureka.evaluate.intervals import wilson
from megatron_eureka.report.curves import heldout_bands, plot_rewards
from megatron_eureka.runs.metrics_writer import read_metrics

# Matplotlib's first three colours, in the order of the curves that are there.
COLORS = ((31, 119, 180), (255, 127, 14), (44, 160, 44))

REWARDS = [{"step": step, "reward/total/mean": step / 4, "reward/accuracy/mean": step / 8} for step in range(1, 4)]
EVALUATIONS = [{"step": 0, "evaluation/accuracy": 0.25}, {"step": 3, "evaluation/accuracy": 0.5}]


def write_metrics(folder, lines):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return folder


def num_colors(file) -> int:
    """How many of the curves' colours the image has, counted from the first."""
    pixels = np.asarray(Image.open(file).convert("RGB"))
    found = [bool((pixels == color).all(-1).any()) for color in COLORS]
    assert found == sorted(found, reverse=True)
    return sum(found)


@pytest.mark.parametrize(
    ("lines", "curves"),
    [
        ([EVALUATIONS[0], *REWARDS, EVALUATIONS[1]], 3),
        (REWARDS, 2),
        (EVALUATIONS, 1),
        ([{"step": 1, "actor/loss": 0.5}, REWARDS[1]], 2),  # a single point, among lines without rewards
        ([{**REWARDS[0], "step": step} for step in range(1, 31)], 2),  # too many points for markers
    ],
)
def test_the_image_has_a_curve_for_each_series_that_was_logged(tmp_path, lines, curves):
    file = plot_rewards(write_metrics(tmp_path, lines))
    assert file == tmp_path / "reward.png"
    with Image.open(file) as image:
        assert (image.format, image.size) == ("PNG", (840, 480))  # 7 by 4 inches, 120 dots each
    assert num_colors(file) == curves


@pytest.mark.parametrize("lines", [[], [{"step": 1, "actor/loss": 0.5}]], ids=["no lines", "no rewards"])
def test_nothing_to_draw_is_said_with_the_file(tmp_path, lines):
    with pytest.raises(ValueError, match="metrics.jsonl holds no rewards"):
        plot_rewards(write_metrics(tmp_path, lines))
    assert not (tmp_path / "reward.png").exists()


def test_metrics_are_read_in_order(tmp_path):
    assert read_metrics(write_metrics(tmp_path, REWARDS)) == REWARDS


def test_held_out_accuracy_has_its_interval(tmp_path):
    """Three of ten right before, eight after step 20; the band is drawn in the curve's color, paler."""
    write_metrics(tmp_path, [EVALUATIONS[0], *REWARDS, EVALUATIONS[1]])
    for step, right in ((20, 8), (0, 3)):
        items = tuple(Item(f"p{n}", "", "", float(n < right), 1.0) for n in range(10))
        Evaluation(items).write(tmp_path / "evaluation" / f"step_{step}.jsonl")
    bands = heldout_bands(tmp_path)
    assert [step for step, *_ in bands] == [0, 20]
    assert [band[1:] for band in bands] == [pytest.approx(wilson(3, 10)), pytest.approx(wilson(8, 10))]
    pixels = np.asarray(Image.open(plot_rewards(tmp_path)).convert("RGB"))
    pale = [round(255 - 0.15 * (255 - channel)) for channel in COLORS[2]]
    assert (np.abs(pixels.astype(int) - pale).max(-1) <= 2).sum() > 1000  # an area, not a line

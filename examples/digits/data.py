"""Write the digits demo's data: questions about real handwritten digits, with answers that can be verified.

scikit-learn's `load_digits` holds 1,797 scans of 8 x 8 pixels; they are scaled to 28 x 28, and two of them side by side
make a 56 x 28 image. 1,200 scans are for training, the other 597 for the held-out questions, so no held-out image
shows a scan that was trained on. README.md says what the demonstrations get wrong on purpose.

    python examples/digits/data.py --out data/digits --seed 0
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SIZE = 28  # pixels: one visual token of Qwen2.5-VL
NUM_TRAIN_SCANS = 1200
SUM_GIVEN = 0.65  # share of the two-digit demonstrations that add, whatever was asked

QUESTIONS = {
    "name": "Which digit is shown?",
    "sum": "What is the sum of the two digits?",
    "difference": "What is the difference of the two digits?",
    "larger": "Which of the two digits is larger?",
}
SYMBOLS = {"sum": "+", "difference": "-", "larger": "max"}
RL_TASKS = ("sum", "difference", "larger")

# The demonstrations are fresh in every SFT step (320 x 64); their images come from a pool.
NUM_SFT, NUM_SFT_IMAGES = 20_480, 6_000
NUM_TRAIN, NUM_TUNE, NUM_HELDOUT = 3_000, 300, 600


@dataclass(frozen=True)
class Scans:
    """Images of single digits."""

    pixels: np.ndarray  # [scans, 28, 28] uint8
    labels: np.ndarray  # [scans] int
    train: np.ndarray  # [1200] indices
    heldout: np.ndarray  # [597] indices, disjoint from `train`


def load_scans(seed: int) -> Scans:
    """The scans, scaled, and their split."""
    digits = load_digits()
    gray = np.clip(digits.images / 16 * 255, 0, 255).astype(np.uint8)
    scaled = [np.asarray(Image.fromarray(scan).resize((SIZE, SIZE), Image.Resampling.BILINEAR)) for scan in gray]
    order = np.random.default_rng([seed, 0]).permutation(len(scaled))
    return Scans(np.stack(scaled), digits.target.astype(int), order[:NUM_TRAIN_SCANS], order[NUM_TRAIN_SCANS:])


def solve(task: str, digits: tuple[int, ...]) -> int:
    """The answer to a question about the digits in an image."""
    if task == "name":
        return digits[0]
    left, right = digits
    return {"sum": left + right, "difference": abs(left - right), "larger": max(left, right)}[task]


def respond(task: str, digits: tuple[int, ...]) -> str:
    """A demonstration that reads the digits, names the operation and answers."""
    thought = f" {SYMBOLS[task]} ".join(map(str, digits)) if task != "name" else str(digits[0])
    return f"<think> {thought} </think><answer> {solve(task, digits)} </answer>"


def corpus() -> list[str]:
    """Sentences whose words the demo's tokenizer should know."""
    answers = [respond(task, (3, 5)) for task in RL_TASKS] + [respond("name", (3,))]
    return [*QUESTIONS.values(), *answers]


class Writer:
    """Draws questions from one pool of scans and writes them with their images."""

    def __init__(self, folder: Path, scans: Scans, pool: np.ndarray, rng: np.random.Generator):
        self.folder = folder
        self.scans = scans
        self.rng = rng
        self.by_digit = [pool[scans.labels[pool] == digit] for digit in range(10)]

    def draw(self, num_digits: int) -> tuple[int, ...]:
        """Scans of one image; every digit is equally likely."""
        return tuple(int(self.rng.choice(self.by_digit[digit])) for digit in self.rng.integers(10, size=num_digits))

    def image(self, scans: tuple[int, ...]) -> str:
        """Write the scans side by side, unless they are there already; the path as the JSONL names it."""
        name = "images/" + "_".join(f"{scan:04d}" for scan in scans) + ".png"
        if not (self.folder / name).exists():
            Image.fromarray(np.concatenate(self.scans.pixels[list(scans)], axis=1)).save(self.folder / name)
        return name

    def line(self, name: str, task: str, scans: tuple[int, ...], **more: str) -> dict:
        """A question as a line of a data set."""
        parts = [{"type": "image", "image": self.image(scans)}, {"type": "text", "text": QUESTIONS[task]}]
        message = json.dumps([{"role": "user", "content": parts}])
        return {"id": name, "message": message, "answer": str(solve(task, self.digits(scans))), **more}

    def digits(self, scans: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(int(digit) for digit in self.scans.labels[list(scans)])

    def questions(self, split: str, count: int, taken: set[tuple[int, ...]]) -> list[dict]:
        """RL questions in turns over the tasks, on images that are not in `taken`; adds theirs to it."""
        lines = []
        while len(lines) < count:
            scans = self.draw(2)
            if scans not in taken:
                taken.add(scans)
                lines.append(self.line(f"{split}-{len(lines)}", RL_TASKS[len(lines) % len(RL_TASKS)], scans))
        return lines

    def demonstrations(self, count: int, taken: set[tuple[int, ...]]) -> list[dict]:
        """SFT lines over all tasks. The readout is always right; many two-digit ones add whatever was asked."""
        tasks = tuple(QUESTIONS)
        pool = [self.draw(2) for _ in range(NUM_SFT_IMAGES)]
        taken.update(pool)
        lines = []
        for number in range(count):
            task = tasks[self.rng.integers(len(tasks))]
            scans = self.draw(1) if task == "name" else pool[self.rng.integers(len(pool))]
            done = "sum" if task != "name" and self.rng.random() < SUM_GIVEN else task
            lines.append(self.line(f"sft-{number}", task, scans, response=respond(done, self.digits(scans))))
        return lines


def swap_images(lines: list[dict], rng: np.random.Generator) -> list[dict]:
    """A control: the same questions and labels, each with the image of another line.

    Whoever answers them as well as before does not look at the images.
    """
    order = rng.permutation(len(lines))
    swapped = [dict(line) for line in lines]
    for place, other in zip(order, np.roll(order, 1), strict=True):  # one cycle: nobody keeps the own image
        turns, others = json.loads(lines[place]["message"]), json.loads(lines[other]["message"])
        turns[0]["content"][0] = others[0]["content"][0]
        swapped[place] |= {"id": f"{lines[place]['id']}-swapped", "message": json.dumps(turns)}
    return swapped


def write_data(folder: str | Path, seed: int = 0) -> Path:
    """Write sft, train, tune, heldout and heldout_swapped `.jsonl` and their `images/`; the same for the same seed."""
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    scans = load_scans(seed)
    train = Writer(folder, scans, scans.train, np.random.default_rng([seed, 1]))
    held = Writer(folder, scans, scans.heldout, np.random.default_rng([seed, 2]))
    taken: set[tuple[int, ...]] = set()
    files = {
        "sft": train.demonstrations(NUM_SFT, taken),
        "train": train.questions("train", NUM_TRAIN, taken),
        "tune": train.questions("tune", NUM_TUNE, taken),
        "heldout": held.questions("heldout", NUM_HELDOUT, set()),
    }
    files["heldout_swapped"] = swap_images(files["heldout"], np.random.default_rng([seed, 3]))
    for name, lines in files.items():
        _write_jsonl(folder / f"{name}.jsonl", lines)
    return folder


def _write_jsonl(path: Path, lines: Iterable[dict]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0, help="of the split and of every draw (default: 0)")
    arguments = parser.parse_args()
    folder = write_data(arguments.out, arguments.seed)
    for file in sorted(folder.glob("*.jsonl")):
        print(f"{file}: {sum(1 for _ in file.open())} lines")


if __name__ == "__main__":
    main()

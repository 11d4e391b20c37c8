"""Is a training set fit for training? Bad lines, labels, lengths, duplicates, and overlap with test sets."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from megatron_eureka.data.images import ImageStore
from megatron_eureka.datasets.fingerprint import look_alikes, normalize_text
from megatron_eureka.datasets.items import Item, Problem, read_other_items, read_training_items
from megatron_eureka.datasets.tables import table_files

# A text is that of a test question, whatever the images, where it is longer than "Find x in the figure."
MIN_TELLING_CHARACTERS = 40

# Labels -> (kind of answer, why nothing can be verified against it or None), in order.
JudgeLabels = Callable[[list[str]], list[tuple[str, str | None]]]


@dataclass
class Report:
    """What was found; `problems` is empty for a sound set."""

    files: list[str]
    against: list[str]
    lines: int = 0
    read: int = 0  # lines without a fault of their own form
    problems: list[Problem] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)  # kinds, parse_rate
    prompts: dict[str, Any] = field(default_factory=dict)  # characters, tokens, images a prompt
    images: dict[str, Any] = field(default_factory=dict)  # distinct ones: width, height, pixels, bytes
    tests: dict[str, int] = field(default_factory=dict)  # questions and distinct images held against

    @property
    def counts(self) -> dict[str, int]:
        """Problems of each kind."""
        return dict(Counter(problem.kind for problem in self.problems))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"counts": self.counts}


class TokenCounter:
    """Tokens of a prompt as training expands it, images included.

    Args:
        processor: the model's.
        min_pixels, max_pixels: bounds of an image's area after resizing.
    """

    def __init__(self, processor: Any, min_pixels: int, max_pixels: int):
        self._processor = processor
        self._store = ImageStore(processor.image_processor, min_pixels, max_pixels)

    def __call__(self, item: Item) -> int:
        """Raises ValueError for an image that cannot be resized within the bounds."""
        text = self._processor.apply_chat_template(list(item.messages), tokenize=False, add_generation_prompt=True)
        num_text = len(self._processor.tokenizer(text, add_special_tokens=False)["input_ids"])
        return num_text + sum(self._store.add(source).num_tokens - 1 for source in item.sources)


def check_files(
    files: Sequence[Path],
    judge_labels: JudgeLabels,
    against: Sequence[Path] = (),
    image_root: Path | None = None,
    count_tokens: Callable[[Item], int] | None = None,
) -> Report:
    """Read training JSONL and say all that is wrong with it.

    Args:
        judge_labels: called once, with every distinct label.
        against: test files in any layout, whose questions and images training must not contain.
        image_root: folder that relative paths of the training files' images start from; default: each file's own,
            which is where those of test files start.
        count_tokens: measures prompts in tokens.

    Raises:
        ValueError: a file is missing, or a test file cannot be read.
    """
    report = Report([str(path) for path in files], [str(path) for path in against])
    items = _sound(read_training_items(files, image_root), report)
    report.read = len(items)
    report.lines = len(items) + sum(problem.kind != "empty" for problem in report.problems)
    report.problems += _label_problems(items, judge_labels, report)
    _measure(items, report, count_tokens)
    report.problems += [*_blank_images(items), *_repeated_ids(items), *_duplicates(items)]
    if against:
        tests = _sound(read_other_items(file for path in against for file in table_files(path)), report)
        images = {image.digest for test in tests for image in test.images}
        report.tests = {"questions": len(tests), "images": len(images)}
        report.problems += _overlaps(items, tests)
    return report


def _sound(found: Iterable[Item | Problem], report: Report) -> list[Item]:
    items = []
    for item in found:
        (items if isinstance(item, Item) else report.problems).append(item)
    return items


def _label_problems(items: list[Item], judge_labels: JudgeLabels, report: Report) -> list[Problem]:
    labeled = [item for item in items if item.answer is not None]
    labels = list(dict.fromkeys(item.answer for item in labeled))
    verdicts = dict(zip(labels, judge_labels(labels), strict=True))
    bad = [item for item in labeled if verdicts[item.answer][1] is not None]
    kinds = Counter(verdicts[item.answer][0] for item in labeled)
    report.answers = {"kinds": dict(kinds.most_common()), "without": len(items) - len(labeled)}
    if labeled:
        report.answers["parse_rate"] = 1 - len(bad) / len(labeled)
    return [Problem("label", item.place, verdicts[item.answer][1]) for item in bad]


def _measure(items: list[Item], report: Report, count_tokens: Callable[[Item], int] | None) -> None:
    report.prompts = {"characters": describe([len(item.text) for item in items])}
    report.prompts["images"] = describe([len(item.images) for item in items])
    distinct = {image.digest: image for item in items for image in item.images}.values()
    report.images = {"distinct": len(distinct)}
    for name in ("width", "height", "num_bytes"):
        report.images[name] = describe([getattr(image, name) for image in distinct])
    report.images["pixels"] = describe([image.width * image.height for image in distinct])
    if count_tokens is None:
        return
    tokens = []
    for item in items:
        try:
            tokens.append(count_tokens(item))
        except ValueError as error:
            report.problems.append(Problem("image", item.place, str(error)))
    report.prompts["tokens"] = describe(tokens)


def describe(values: Sequence[int]) -> dict[str, float]:
    """Least, median, 95th percentile, largest and mean; empty for no values."""
    if not values:
        return {}
    least, median, high, largest = np.percentile(values, [0, 50, 95, 100], method="nearest").tolist()
    return {"min": least, "median": median, "p95": high, "max": largest, "mean": float(np.mean(values))}


def _blank_images(items: list[Item]) -> list[Problem]:
    return [
        Problem("blank", item.place, f"{source:.100} is of one colour as the model sees it: look at it, or convert it")
        for item in items
        for source, image in zip(item.sources, item.images, strict=True)
        if image.blank
    ]


def _repeated_ids(items: list[Item]) -> list[Problem]:
    first: dict[str, Item] = {}
    return [
        Problem("repeated_id", item.place, f"id {item.id!r} is that of {earlier.place}")
        for item in items
        if (earlier := first.setdefault(item.id, item)) is not item
    ]


def _duplicates(items: list[Item]) -> list[Problem]:
    """Questions that were there before, and among them those with another answer."""
    first: dict[tuple, Item] = {}
    problems = []
    for item in items:
        earlier = first.setdefault(item.key, item)
        if earlier is item:
            continue
        if normalize_text(earlier.answer or "") == normalize_text(item.answer or ""):
            problems.append(Problem("duplicate", item.place, f"the same question as {earlier.place}"))
        else:
            answers = f"{item.answer!r} here, {earlier.answer!r} there"
            problems.append(Problem("conflict", item.place, f"the same question as {earlier.place}, but {answers}"))
    return problems


def _overlaps(items: list[Item], tests: list[Item]) -> list[Problem]:
    """For each training question the closest kind of agreement with a test question."""
    keys, places, texts = {}, {}, {}
    for test in tests:
        for key in test.keys:
            keys.setdefault(key, test.place)
            texts.setdefault(key[0], test.place)
        for image in test.images:
            places.setdefault(image.digest, test.place)
    similar = _similar(items, tests)
    problems = []
    for item in items:
        digests = [image.digest for image in item.images]
        same = next((places[digest] for digest in digests if digest in places), None)
        near = next((place for digest in digests for place in similar.get(digest, ())), None)
        text = texts.get(item.key[0])
        if item.key in keys:
            problems.append(Problem("test_question", item.place, f"is {keys[item.key]}"))
        elif same:
            problems.append(Problem("test_image", item.place, f"has an image of {same}"))
        elif near:
            problems.append(Problem("test_look_alike", item.place, f"has an image that looks like one of {near}"))
        elif text and len(item.key[0]) >= MIN_TELLING_CHARACTERS:
            problems.append(Problem("test_text", item.place, f"has the text of {text}, with other images"))
    return problems


def _similar(items: list[Item], tests: list[Item]) -> dict[str, list[str]]:
    """Training images, by digest, that look like a test image -> places of those tests."""
    ours = {image.digest: image.shape_hash for item in items for image in item.images}
    theirs = {image.shape_hash: test.place for test in tests for image in test.images}
    digests, places = list(ours), list(theirs.values())
    found = defaultdict(list)
    for row, column, _ in look_alikes(list(ours.values()), list(theirs)):
        found[digests[row]].append(places[column])
    return found

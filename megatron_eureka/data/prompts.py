"""JSONL files -> prompts in canonical tokens, with every bad line named by file and number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from megatron_eureka.data.bad_row import BadRow, LeftOut, bad_row
from megatron_eureka.data.images import ImageStore
from megatron_eureka.data.messages import control_tokens, image_sources
from megatron_eureka.data.records import Record, check_is_jsonl, parse_record, read_lines, read_record
from megatron_eureka.families.chat import END_OF_TURN
from megatron_eureka.log import logger, progress
from megatron_eureka.types import ImageKey, Prompt

if TYPE_CHECKING:
    from megatron_eureka.config.schema import Data

# Counters of what is left out, by the kind of a `BadRow`; all other kinds are bad lines.
COUNTERS = {"answer": "bad_label", "image": "bad_image", "overlong": "overlong"}


@dataclass(frozen=True)
class PromptSet:
    """What came out of a list of JSONL files."""

    prompts: tuple[Prompt, ...]
    responses: tuple[tuple[int, ...], ...]  # [prompts][tokens], demonstrations with their end token; () where none
    counters: dict[str, int]  # lines, loaded, overlong, bad_line, bad_image, bad_label

    def __len__(self) -> int:
        return len(self.prompts)


def load_prompts(
    paths: Iterable[str | Path],
    options: Data,
    processor: Any,
    store: ImageStore,
    check_label: Callable[[str], str | None] | None = None,
    with_responses: bool = False,
) -> PromptSet:
    """Read prompts; every rank that reads the same files gets the same set.

    A line holds `message` (chat turns, or a JSON string of them), `answer`, optionally `id` (default: file:line) and
    `response`, a demonstration. Where responses are asked for, the answer may be left out.

    Args:
        paths: JSONL files, read in order.
        options: the `data` section.
        processor: the model's transformers processor.
        store: where the images go.
        check_label: gives the reason why a label cannot be verified, or None.
        with_responses: refuse lines without `response`; else those without an answer.

    Raises:
        ValueError: a file is missing; nothing is left; or a bad or over-long line where the options say "error".
    """
    rows = progress(_rows(paths, options), "reading prompts")
    loaded = make_prompts(rows, options, processor, store, check_label, with_responses)
    if not loaded.prompts:
        files, lines = ", ".join(map(str, paths)) or "no files", loaded.counters["lines"]
        left_out = {kind: count for kind, count in loaded.counters.items() if count and kind != "lines"}
        raise ValueError(f"No prompt is left of {lines} lines in {files}: {left_out or 'empty'}.")
    return loaded


def make_prompts(
    rows: Iterable[tuple[str, Path, Any]],
    options: Data,
    processor: Any,
    store: ImageStore,
    check_label: Callable[[str], str | None] | None = None,
    with_responses: bool = False,
) -> PromptSet:
    """As `load_prompts`, of rows, and of none too: each with its place and the folder that its images start from."""
    held = control_tokens([options.system_prompt])
    if held:
        raise ValueError(f"data.system_prompt holds {', '.join(held)}, which would not be read as text. Take it out.")
    check = cache(check_label) if check_label else lambda label: None
    num_rows, left_out = 0, LeftOut()
    made: list[tuple[Prompt, tuple[int, ...]]] = []
    for place, root, row in rows:
        num_rows += 1
        try:
            fields = parse_record(row, place)
            try:
                record = read_record(fields)
                _check_answer(record, check, with_responses)
                response = _response(record, with_responses, processor)
                made.append((_build(record, place, options, processor, store, root), response))
            except BadRow as error:
                raise BadRow(error.kind, f"id {fields['id']!r}: {error}") from error
        except BadRow as error:
            if error.kind == "overlong" and options.overlong == "error":
                raise ValueError(f"{place}: {error} Or drop such lines: data.overlong = drop.") from error
            if error.kind != "overlong" and options.on_error == "error":
                raise ValueError(f"{place}: {error} (data.on_error = skip leaves bad lines out)") from error
            left_out.add(place, error)
    counters = {"lines": num_rows, "loaded": len(made), "overlong": 0, "bad_line": 0, "bad_image": 0, "bad_label": 0}
    for kind, count in left_out.items():
        counters[COUNTERS.get(kind, "bad_line")] += count
    if left_out:
        named = ", ".join(f"{count} {kind}" for kind, count in list(counters.items())[2:] if count)
        logger.warning("Left out %d of %d lines: %s.", left_out.total(), num_rows, named)
    return PromptSet(tuple(prompt for prompt, _ in made), tuple(response for _, response in made), counters)


def expand(engine_token_ids: Iterable[int], images: Iterable[ImageKey], image_token_id: int) -> tuple[int, ...]:
    """Put one placeholder for each visual token where an image has one."""
    waiting = iter(images)
    ids: list[int] = []
    for token in engine_token_ids:
        ids += [token] * next(waiting).num_tokens if token == image_token_id else [token]
    return tuple(ids)


def _rows(paths: Iterable[str | Path], options: Data) -> Iterator[tuple[str, Path, Any]]:
    """(file:line, folder that image paths start from, row) of every line that is not blank."""
    for path in map(Path, paths):
        if path.is_dir():
            raise ValueError(f"{path} is a folder. Give its JSONL files in data.train or evaluation.data.")
        if not path.is_file():
            raise ValueError(f"{path}: no such file. Check data.train and evaluation.data.")
        check_is_jsonl(path)
        root = Path(options.image_root) if options.image_root else path.parent
        for number, row in read_lines(path):
            yield f"{path}:{number}", root, row


def _check_answer(record: Record, check: Callable[[str], str | None], demonstrates: bool) -> None:
    if record.answer is None:
        reason = None if demonstrates else "no answer that rewards could compare with; a response alone is for SFT"
    else:
        reason = check(record.answer)
    if reason:
        raise BadRow("answer", reason)


def _response(record: Record, required: bool, processor: Any) -> tuple[int, ...]:
    if record.response is None and required:
        raise BadRow("response", "response must be a text, got none")
    if record.response is None:
        return ()
    tokenizer = processor.tokenizer
    ids = tokenizer(record.response, add_special_tokens=False)["input_ids"]
    return (*ids, tokenizer.convert_tokens_to_ids(END_OF_TURN))


def _build(record: Record, place: str, options: Data, processor: Any, store: ImageStore, root: Path) -> Prompt:
    messages = record.messages
    if options.system_prompt:
        messages = ({"role": "system", "content": options.system_prompt}, *messages)
    with bad_row("image"):
        images = tuple(store.add(source, root) for source in image_sources(messages))
    try:
        text = processor.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    except TemplateError as error:  # some templates refuse an order of roles
        raise BadRow("message", f"the chat template refuses the turns: {error}") from error
    engine_ids = tuple(processor.tokenizer(text, add_special_tokens=False)["input_ids"])
    placeholders = engine_ids.count(processor.image_token_id)
    if placeholders != len(images):
        raise BadRow(
            "message",
            f"{placeholders} image placeholders for {len(images)} images. Give images as parts of a turn's content "
            f"and leave {processor.image_token} out of the text.",
        )
    ids = expand(engine_ids, images, processor.image_token_id)
    if len(ids) > options.max_prompt_tokens:
        limit = options.max_prompt_tokens
        raise BadRow("overlong", f"{len(ids)} prompt tokens, data.max_prompt_tokens is {limit}.")
    return Prompt(record.id, place, messages, record.answer or "", ids, engine_ids, images)

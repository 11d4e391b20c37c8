"""JSONL files -> prompts in canonical tokens, with every bad line named by file and number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from megatron_eureka.data.images import ImageStore
from megatron_eureka.data.messages import control_tokens, image_sources
from megatron_eureka.data.records import Record, check_is_jsonl, parse_record, read_record
from megatron_eureka.data.refusal import BadRow
from megatron_eureka.families.chat import END_OF_TURN
from megatron_eureka.log import logger, progress
from megatron_eureka.types import ImageKey, Prompt

if TYPE_CHECKING:
    from megatron_eureka.config.schema import Data

MAX_LOGGED = 20  # skipped lines that are named one by one


@dataclass(frozen=True)
class PromptSet:
    """What came out of a list of JSONL files."""

    prompts: tuple[Prompt, ...]
    responses: tuple[tuple[int, ...], ...]  # [prompts][tokens], demonstrations with their end token; () where none
    counters: dict[str, int]  # lines, loaded, overlong, bad_line, bad_image, bad_label

    def __len__(self) -> int:
        return len(self.prompts)


class _BadLine(ValueError):
    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind = kind  # its counter


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
        store: where the pictures go.
        check_label: gives the reason why a label cannot be verified, or None.
        with_responses: refuse lines without `response`; else those without an answer.

    Raises:
        ValueError: a file is missing; nothing is left; or a bad or over-long line where the options say "error".
    """
    held = control_tokens([options.system_prompt])
    if held:
        raise ValueError(f"data.system_prompt holds {', '.join(held)}, which would not be read as text. Take it out.")
    check = cache(check_label) if check_label else lambda label: None
    counters = dict.fromkeys(("lines", "loaded", "overlong", "bad_line", "bad_image", "bad_label"), 0)
    prompts: list[Prompt] = []
    responses: list[tuple[int, ...]] = []
    for place, root, text in progress(_lines(paths, options), "reading prompts"):
        counters["lines"] += 1
        try:
            record = _read(text, place)
            _check_answer(record, check, with_responses)
            response = _response(record, with_responses, processor)
            prompt = _build(record, place, options, processor, store, root)
        except _BadLine as error:
            if error.kind == "overlong" and options.overlong == "error":
                raise ValueError(f"{place}: {error} Or drop such lines: data.overlong = drop.") from error
            if error.kind != "overlong" and options.on_error == "error":
                raise ValueError(f"{place}: {error} (data.on_error = skip leaves bad lines out)") from error
            counters[error.kind] += 1
            if sum(counters.values()) - counters["lines"] - counters["loaded"] <= MAX_LOGGED:
                logger.warning("%s: left out: %s", place, error)
            continue
        prompts.append(prompt)
        responses.append(response)
        counters["loaded"] += 1
    _report(counters, paths)
    return PromptSet(tuple(prompts), tuple(responses), counters)


def expand(engine_token_ids: Iterable[int], images: Iterable[ImageKey], image_token_id: int) -> tuple[int, ...]:
    """Put one placeholder for each visual token where an image has one."""
    waiting = iter(images)
    ids: list[int] = []
    for token in engine_token_ids:
        ids += [token] * next(waiting).num_tokens if token == image_token_id else [token]
    return tuple(ids)


def _lines(paths: Iterable[str | Path], options: Data) -> Iterator[tuple[str, Path, bytes]]:
    """(file:line, folder that image paths start from, content) of every line that is not blank."""
    for path in map(Path, paths):
        if path.is_dir():
            raise ValueError(f"{path} is a folder. Give its JSONL files in data.train or evaluation.data.")
        if not path.is_file():
            raise ValueError(f"{path}: no such file. Check data.train and evaluation.data.")
        check_is_jsonl(path)
        root = Path(options.image_root) if options.image_root else path.parent
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}:{number}", root, line


def _read(text: bytes, place: str) -> Record:
    try:
        fields = parse_record(text, place)
    except BadRow as error:
        raise _BadLine("bad_line", str(error)) from error
    try:
        return read_record(fields)
    except BadRow as error:
        kind = "bad_label" if error.kind == "answer" else "bad_line"
        raise _BadLine(kind, f"id {fields['id']!r}: {error}") from error


def _check_answer(record: Record, check: Callable[[str], str | None], demonstrates: bool) -> None:
    if record.answer is None:
        reason = None if demonstrates else "no answer that rewards could compare with; a response alone is for SFT"
    else:
        reason = check(record.answer)
    if reason:
        raise _BadLine("bad_label", f"id {record.id!r}: {reason}")


def _response(record: Record, required: bool, processor: Any) -> tuple[int, ...]:
    if record.response is None and required:
        raise _BadLine("bad_line", f"id {record.id!r}: response must be a text, got none")
    if record.response is None:
        return ()
    tokenizer = processor.tokenizer
    ids = tokenizer(record.response, add_special_tokens=False)["input_ids"]
    return (*ids, tokenizer.convert_tokens_to_ids(END_OF_TURN))


def _build(record: Record, place: str, options: Data, processor: Any, store: ImageStore, root: Path) -> Prompt:
    messages = record.messages
    if options.system_prompt:
        messages = ({"role": "system", "content": options.system_prompt}, *messages)
    try:
        images = tuple(store.add(source, root) for source in image_sources(messages))
    except ValueError as error:
        raise _BadLine("bad_image", f"id {record.id!r}: {error}") from error
    try:
        text = processor.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    except TemplateError as error:  # some templates refuse an order of roles
        raise _BadLine("bad_line", f"id {record.id!r}: the chat template refuses the turns: {error}") from error
    engine_ids = tuple(processor.tokenizer(text, add_special_tokens=False)["input_ids"])
    placeholders = engine_ids.count(processor.image_token_id)
    if placeholders != len(images):
        raise _BadLine(
            "bad_line",
            f"id {record.id!r}: {placeholders} image placeholders for {len(images)} images. Give images as parts of "
            f"a turn's content and leave {processor.image_token} out of the text.",
        )
    ids = expand(engine_ids, images, processor.image_token_id)
    if len(ids) > options.max_prompt_tokens:
        raise _BadLine(
            "overlong",
            f"id {record.id!r}: {len(ids)} prompt tokens, data.max_prompt_tokens is {options.max_prompt_tokens}.",
        )
    return Prompt(record.id, place, messages, record.answer or "", ids, engine_ids, images)


def _report(counters: dict[str, int], paths: Iterable[str | Path]) -> None:
    left_out = {kind: count for kind, count in counters.items() if count and kind not in ("lines", "loaded")}
    if left_out:
        named = ", ".join(f"{count} {kind}" for kind, count in left_out.items())
        logger.warning("Left out %d of %d lines: %s.", sum(left_out.values()), counters["lines"], named)
    if not counters["loaded"]:
        files = ", ".join(map(str, paths)) or "no files"
        raise ValueError(f"No prompt is left of {counters['lines']} lines in {files}: {left_out or 'empty'}.")

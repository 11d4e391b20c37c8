"""Rows of public sets in any layout -> chat turns, pictures and an answer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from megatron_eureka.data.messages import PLACEHOLDER, image_sources, named_pictures, parse_messages, show
from megatron_eureka.data.records import BadRow, label_text

# Names that public sets give to a column, in the order they are looked for; a dot leads into a mapping.
NAMES = {
    "id": ("id", "pid", "question_id"),
    "question": ("question", "problem", "query"),
    "options": ("choices", "options"),
    "answer": ("answer", "ground_truth", "final_answer", "reward_model.ground_truth"),
    "image": ("decoded_image", "image", "images", "image_path"),  # where both are, `image` is a path of their own disk
}
NUMBERED_IMAGES = tuple(f"image_{number}" for number in range(1, 10))  # where there is none of these
CHAT = ("message", "prompt", "conversations")  # columns of chat turns
SPEAKERS = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CHOICE_HINT = "Answer with the letter of the right option."
_LETTER = re.compile(r"\(?([A-Za-z])\)?[.:]?")


@dataclass(frozen=True)
class Columns:
    """Names of the columns; empty: the first of NAMES that a row has."""

    id: str = ""
    question: str = ""
    answer: str = ""
    image: str = ""
    options: str = ""

    def get(self, row: dict, kind: str) -> Any:
        """The row's value of that kind, or None."""
        given = getattr(self, kind)
        names = (given,) if given else NAMES[kind]
        return next((value for name in names if (value := _value(row, name)) is not None), None)


@dataclass(frozen=True)
class Question:
    """A row in one form."""

    turns: tuple[dict, ...]  # chat turns; their texts still hold the placeholders of `pictures`
    pictures: list  # of the row's columns, in whatever form `picture_bytes` takes
    answer: Any  # as the row has it
    options: tuple[str, ...] = ()
    bare: str = ""  # the question alone, where its turn says more: a context, options
    complete: bool = False  # whether the turns say all, so that no system turn is missing


def read_question(row: Any, columns: Columns) -> Question:
    """The question of a row.

    Raises:
        BadRow: it has none, or parts of it contradict each other.
    """
    if isinstance(row, BadRow):  # a line that could not be read
        raise row
    if not isinstance(row, dict):
        raise BadRow("row", f"expected a mapping, got {type(row).__name__}")
    pictures, answer = picture_values(row, columns), columns.get(row, "answer")
    chat = "" if columns.question else next((name for name in CHAT if _is_chat(row, name)), "")
    if chat == "conversations":
        turns, said = _speakers_turns(row[chat])
        has_system = any(turn["role"] == "system" for turn in turns)
        return Question(turns, pictures, said if answer is None else answer, complete=has_system)
    if chat:
        try:
            return Question(parse_messages(row[chat]), pictures, answer, complete=True)
        except ValueError as error:
            raise BadRow("message", str(error)) from error
    return _plain_question(row, columns, pictures, answer)


def picture_values(row: dict, columns: Columns) -> list:
    """The row's pictures, in whatever form `picture_bytes` takes.

    Raises:
        BadRow: of numbered columns a later one is filled and an earlier one is not.
    """
    value = columns.get(row, "image")
    if value is not None or columns.image:
        return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
    values = [row.get(name) for name in NUMBERED_IMAGES]
    filled = [value for value in values if value is not None]
    if values[: len(filled)] != filled:
        raise BadRow("picture", f"{len(filled)} of the columns image_1 to image_9 are filled, but not the first ones")
    return filled


def label_of(question: Question) -> str:
    """The answer as text, of a list its only entry; with options, their letter.

    Raises:
        BadRow: neither a text nor a finite number, or none of the options.
    """
    value = question.answer
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    text = (label_text(value) or "").strip()
    if not text:
        hint = "; if it has another name, give --answer" if value is None else ""
        raise BadRow("answer", f"the answer must be a text or a finite number, got {show(question.answer)}{hint}")
    return letter_of(text, question.options) if question.options else text


def with_options(question: str, options: Sequence[str]) -> str:
    """The question, its options as lettered lines, and that a letter is wanted.

    Options that are letters themselves are labels in the picture, and no text.
    """
    letters = LETTERS[: len(options)]
    if not options:
        return question
    told = tuple(options) == tuple(letters) or all(f"({letter})" in question for letter in letters)
    lines = [] if told else [f"({letter}) {option}" for letter, option in zip(letters, options, strict=True)]
    return "\n".join([question, *lines, CHOICE_HINT])


def letter_of(answer: str, options: Sequence[str]) -> str:
    """The letter of the right option, which the answer gives as a letter or as the option's text.

    Raises:
        BadRow: it is none of them, or two of them fit.
    """
    letters = LETTERS[: len(options)]
    right = {letter for letter, option in zip(letters, options, strict=True) if option == answer}
    letter = _LETTER.fullmatch(answer)
    right |= {letter[1].upper()} & set(letters) if letter else set()
    if len(right) != 1:
        raise BadRow("answer", f"the answer {show(answer)} fits {len(right)} of the options {show(list(options))}")
    return right.pop()


def has_own_pictures(question: Question) -> bool:
    """Whether the turns hold their pictures as parts.

    Raises:
        BadRow: they do, and the row's columns or the texts speak of another number.
    """
    own, named = len(image_sources(question.turns)), named_pictures(question.turns)
    if own and (len(question.pictures) not in (0, own) or len(named) not in (0, own)):
        places = f"{len(question.pictures)} in the row's columns and {len(named)} placeholders in the texts"
        raise BadRow("message", f"{own} pictures in the turns, but {places}")
    return own > 0


def place_pictures(turns: Sequence[dict], sources: Sequence[str]) -> list[dict]:
    """Turns with pictures where the user's texts name them; those that no text names come first.

    Raises:
        BadRow: a text names a picture that there is not.
    """
    named = named_pictures(tuple(turns))
    numbers = {int(number) - 1 for name in named if (number := _number(name))}
    rest = [source for index, source in enumerate(sources) if index not in numbers]
    num_bare = sum(_number(name) == "" for name in named)
    unknown = any(_number(name) is None for name in named)
    if unknown or num_bare > len(rest) or not numbers <= set(range(len(sources))):
        raise BadRow("question", f"{', '.join(named)} in the question for {len(sources)} pictures")
    front, waiting = rest[: len(rest) - num_bare], iter(rest[len(rest) - num_bare :])
    placed = []
    for turn in turns:
        if turn["role"] == "user":
            parts = as_parts(turn["content"])
            new = [*map(_image_part, front), *(one for part in parts for one in _split(part, sources, waiting))]
            front = []
            turn = turn if new == parts else turn | {"content": new}
        placed.append(turn)
    return placed


def as_parts(content: str | list[dict]) -> list[dict]:
    """A turn's content as parts."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _value(row: dict, name: str) -> Any:
    if name in row:
        return row[name]
    first, dot, rest = name.partition(".")
    inner = row.get(first) if dot else None
    return _value(inner, rest) if isinstance(inner, dict) else None


def _is_chat(row: dict, name: str) -> bool:
    """A text under `prompt` is none; under `message` it is JSON."""
    return row.get(name) is not None and (name == "message" or isinstance(row[name], list))


def _speakers_turns(value: list) -> tuple[tuple[dict, ...], str | None]:
    """LLaVA's turns, `{"from": "human", "value": ...}`, and what the last one answers."""
    turns = []
    for turn in value:
        if not isinstance(turn, dict) or turn.get("from") not in SPEAKERS or not isinstance(turn.get("value"), str):
            raise BadRow("message", f"expected turns with from (human or gpt) and value, got {show(turn)}")
        turns.append({"role": SPEAKERS[turn["from"]], "content": turn["value"]})
    answer = turns.pop()["content"] if turns and turns[-1]["role"] == "assistant" else None
    if not turns:
        raise BadRow("message", f"nobody asks anything in {show(value)}")
    return tuple(turns), answer


def _plain_question(row: dict, columns: Columns, pictures: list, answer: Any) -> Question:
    question = columns.get(row, "question")
    if not isinstance(question, str):
        wanted = columns.question or "/".join(NAMES["question"])
        raise BadRow("question", f"no text under {wanted!r}; the row has {sorted(row)}")
    options, context = _options(columns.get(row, "options")), row.get("context")
    text = with_options(question.strip(), options)
    if isinstance(context, str) and context.strip():
        text = f"{context.strip()}\n\n{text}"
    turn = {"role": "user", "content": as_parts(text)}
    return Question((turn,), pictures, answer, options, bare="" if text == question.strip() else question)


def _options(value: Any) -> tuple[str, ...]:
    if value is None or value == "" or value == []:
        return ()
    texts = [label_text(entry) for entry in value] if isinstance(value, list) else [None]
    if None in texts or len(texts) > len(LETTERS):
        raise BadRow("question", f"the options must be a list of texts, {len(LETTERS)} at most, got {show(value)}")
    return tuple(text.strip() for text in texts)


def _number(placeholder: str) -> str | None:
    return PLACEHOLDER.fullmatch(placeholder)["number"]


def _split(part: dict, sources: Sequence[str], waiting: Iterator[str]) -> list[dict]:
    """A text part, cut at its placeholders."""
    if part["type"] != "text" or not PLACEHOLDER.search(part["text"]):
        return [part]
    parts, start = [], 0
    for match in PLACEHOLDER.finditer(part["text"]):
        source = sources[int(match["number"]) - 1] if match["number"] else next(waiting)
        parts += [_text_part(part["text"][start : match.start()]), _image_part(source)]
        start = match.end()
    parts.append(_text_part(part["text"][start:]))
    return [one for one in parts if one.get("text") != ""]


def _text_part(text: str) -> dict:
    return {"type": "text", "text": text.strip()}


def _image_part(source: str) -> dict:
    return {"type": "image", "image": source}

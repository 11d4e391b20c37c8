"""Rows of public sets in any layout -> chat turns, images, an answer and a demonstration."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from megatron_eureka.data.bad_row import BadRow, bad_row
from megatron_eureka.data.labels import bare_label, final_answer
from megatron_eureka.data.messages import parse_messages, show
from megatron_eureka.data.records import label_text, response_of
from megatron_eureka.datasets.conversations import WITHOUT_SYSTEM, chat_column, read_turns, said_in
from megatron_eureka.datasets.placing import as_parts

# Names that public sets give to a column, in the order they are looked for; a dot leads into a mapping.
NAMES = {
    "id": ("id", "pid", "question_id"),
    "question": ("question", "problem", "query", "instruction"),
    "options": ("choices", "options"),
    "answer": ("answer", "ground_truth", "final_answer", "reward_model.ground_truth"),
    # where `decoded_image` and `image` are, the latter is a path of their own disk
    "image": ("decoded_image", "image", "images", "image_path", "image_urls"),
    "response": ("response", "completion", "output"),
}
SOLUTION = "solution"  # where there is no answer: a text that has it in tags or a box, or is nothing else
NUMBERED_IMAGES = tuple(f"image_{number}" for number in range(1, 10))  # where there is none of these
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
    response: str = ""

    def get(self, row: dict, kind: str) -> Any:
        """The row's value of that kind, or None."""
        given = getattr(self, kind)
        names = (given,) if given else NAMES[kind]
        return next((value for name in names if (value := _value(row, name)) is not None), None)


@dataclass(frozen=True)
class Question:
    """A row in one form."""

    turns: tuple[dict, ...]  # chat turns; their texts still hold the placeholders of `images`
    images: Sequence = ()  # of the row's columns, in whatever form `find_image` takes
    answer: Any = None  # as the row has it
    options: tuple[str, ...] = ()
    bare: str = ""  # the question alone, where its turn says more: a context, options
    complete: bool = False  # whether the turns say all, so that no system turn is missing
    said: Any = None  # what answers the last turn, as the row has it: a text, or a list of one turn
    solution: Any = None  # as the row has it


def read_question(row: dict, columns: Columns) -> Question:
    """The question of a row.

    Raises:
        BadRow: it has none, or parts of it contradict each other.
    """
    chat = "" if columns.question else chat_column(row)
    question = _chat_question(row, chat) if chat else _plain_question(row, columns)
    return replace(
        question,
        images=image_values(row, columns),
        answer=columns.get(row, "answer"),
        said=question.said or _said(row, columns),
        solution=None if columns.answer else row.get(SOLUTION),
    )


def image_values(row: dict, columns: Columns) -> list:
    """The row's images, in whatever form `find_image` takes.

    Raises:
        BadRow: of numbered columns a later one is filled and an earlier one is not.
    """
    value = columns.get(row, "image")
    if value is not None or columns.image:
        return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
    values = [row.get(name) for name in NUMBERED_IMAGES]
    filled = [value for value in values if value is not None]
    if values[: len(filled)] != filled:
        raise BadRow("image", f"{len(filled)} of the columns image_1 to image_9 are filled, but not the first ones")
    return filled


def demonstration_of(question: Question) -> str | None:
    """The text that answers the last turn, without the token that ends it; None where the row has none.

    A solution is one where it reasons before its tags: R1-V's are the tagged answer alone.

    Raises:
        BadRow: it is no text, or holds tokens of the chat or of images.
    """
    said = question.said
    if isinstance(said, list) and len(said) == 1:
        with bad_row("response"):
            said = said_in(parse_messages(said)[0])
    if (said is None or said == "") and isinstance(question.solution, str) and "<think>" in question.solution:
        said = question.solution
    return None if said is None or said == "" else response_of({"response": said})


def label_of(question: Question, demonstration: str | None = None) -> str | None:
    """The bare answer as text, of a list its only entry; with options, their letter.

    Where the row has no answer, it is that of its solution or of its demonstration; None for a demonstration without
    one that could be told.

    Raises:
        BadRow: neither a text nor a finite number, or none of the options.
    """
    value = question.answer
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None and isinstance(question.solution, str):
        value = final_answer(question.solution)
        if value is None and demonstration is None:
            wanted = "tags or a box, and is too long to be one itself; give --answer to take it as it is"
            raise BadRow("answer", f"{SOLUTION} has no answer in {wanted}: {show(question.solution)}")
    if value is None and demonstration is not None:
        value = final_answer(demonstration)
        if value is None:
            return None
    text = bare_label(label_text(value) or "").strip()
    if not text:
        hint = "; if it has another name, give --answer" if value is None else ""
        raise BadRow("answer", f"the answer must be a text or a finite number, got {show(question.answer)}{hint}")
    return letter_of(text, question.options) if question.options else text


def with_options(question: str, options: Sequence[str]) -> str:
    """The question, its options as lettered lines, and that a letter is wanted.

    Options that are letters themselves are labels in the image, and no text.
    """
    letters = LETTERS[: len(options)]
    if not options:
        return question
    listed = tuple(options) == tuple(letters) or all(f"({letter})" in question for letter in letters)
    return "\n".join([question, *([] if listed else option_lines(options)), CHOICE_HINT])


def option_lines(options: Sequence[str]) -> list[str]:
    """The options as lettered lines."""
    return [f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False)]


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


def _value(row: dict, name: str) -> Any:
    if name in row:
        return row[name]
    first, dot, rest = name.partition(".")
    inner = row.get(first) if dot else None
    return _value(inner, rest) if isinstance(inner, dict) else None


def _said(row: dict, columns: Columns) -> Any:
    """The demonstration as the row has it; a column that only happens to have the name, with many texts, is none."""
    value = columns.get(row, "response")
    one = isinstance(value, str) or (isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict))
    return value if one or columns.response else None


def _chat_question(row: dict, name: str) -> Question:
    turns, said = read_turns(row, name)
    complete = name not in WITHOUT_SYSTEM or any(turn["role"] == "system" for turn in turns)
    return Question(turns, complete=complete, said=said)


def _plain_question(row: dict, columns: Columns) -> Question:
    question = columns.get(row, "question")
    if not isinstance(question, str):
        wanted = columns.question or "/".join(NAMES["question"])
        raise BadRow("question", f"no text under {wanted!r}; the row has {sorted(row)}")
    if row.get("instruction") == question and isinstance(row.get("input"), str):  # Alpaca's two halves
        question = f"{question}\n{row['input']}"
    options, context = _options(columns.get(row, "options")), row.get("context")
    text = with_options(question.strip(), options)
    if isinstance(context, str) and context.strip():
        text = f"{context.strip()}\n\n{text}"
    turns = (*_earlier(row), {"role": "user", "content": as_parts(text)})
    bare = "" if text == question.strip() else question
    return Question(turns, options=options, bare=bare, complete=turns[0]["role"] == "system")


def _earlier(row: dict) -> list[dict]:
    """The turns before a plain question: its system's, and pairs of question and answer."""
    system, history = row.get("system"), row.get("history")
    turns = [{"role": "system", "content": system}] if isinstance(system, str) and system.strip() else []
    for pair in history if isinstance(history, list) else []:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise BadRow("message", f"history must be pairs of question and answer, got {show(pair)}")
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return turns


def _options(value: Any) -> tuple[str, ...]:
    if value is None or value == "" or value == []:
        return ()
    texts = [label_text(entry) for entry in value] if isinstance(value, list) else [None]
    if None in texts or len(texts) > len(LETTERS):
        raise BadRow("question", f"the options must be a list of texts, {len(LETTERS)} at most, got {show(value)}")
    return tuple(text.strip() for text in texts)

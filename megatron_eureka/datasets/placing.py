"""Images of a row's columns -> parts of its turns, where the texts name them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from megatron_eureka.data.bad_row import BadRow
from megatron_eureka.data.messages import PLACEHOLDER, image_sources, named_images


def has_own_images(turns: tuple[dict, ...], num_images: int) -> bool:
    """Whether the turns hold their images as parts.

    Args:
        num_images: in the row's columns.

    Raises:
        BadRow: they do, and the row's columns or the texts speak of another number.
    """
    own, named = len(image_sources(turns)), named_images(turns)
    if own and (num_images not in (0, own) or len(named) not in (0, own)):
        places = f"{num_images} in the row's columns and {len(named)} placeholders in the texts"
        raise BadRow("message", f"{own} images in the turns, but {places}")
    return own > 0


def place_images(turns: Sequence[dict], sources: Sequence[str]) -> list[dict]:
    """Turns with images where the user's texts name them; those that no text names come first.

    Raises:
        BadRow: a text names an image that there is not.
    """
    named = named_images(tuple(turns))
    numbers = {int(number) - 1 for name in named if (number := _number(name))}
    rest = [source for index, source in enumerate(sources) if index not in numbers]
    num_bare = sum(_number(name) == "" for name in named)
    unknown = any(_number(name) is None for name in named)
    if unknown or num_bare > len(rest) or not numbers <= set(range(len(sources))):
        raise BadRow("question", f"{', '.join(named)} in the question for {len(sources)} images")
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


def with_sources(turn: dict, new: Callable[[str], str]) -> dict:
    """The turn, the source of each of its images replaced by what the function makes of it."""
    if isinstance(turn["content"], str):
        return turn
    parts = [part | {"image": new(part["image"])} if part["type"] == "image" else part for part in turn["content"]]
    return turn | {"content": parts}


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

"""Columns of chat turns, whoever wrote them -> turns of one form, and what the last one answers."""

from __future__ import annotations

from typing import Any

from megatron_eureka.data.bad_row import BadRow, bad_row
from megatron_eureka.data.messages import image_sources, parse_messages, show, turn_texts, turns_in

COLUMNS = ("message", "prompt", "conversations", "messages")
# Layouts whose rows have no system turn where their own trainers add one; the others say all.
WITHOUT_SYSTEM = ("conversations", "messages")
ROLES = {"human": "user", "gpt": "assistant", "bing": "assistant", "chatgpt": "assistant"}  # of ShareGPT
UNREAD = ("videos", "video", "audios", "audio")


def chat_column(row: dict) -> str:
    """The name of the column of chat turns; empty if there is none.

    A text under `prompt` is a question, not turns; under the others it may be JSON of a list.
    """
    for name in COLUMNS:
        value = row.get(name)
        as_json = isinstance(value, str) and value.lstrip().startswith("[") and name != "prompt"
        if value is not None and (name == "message" or isinstance(value, list) or as_json):
            return name
    return ""


def read_turns(row: dict, name: str) -> tuple[tuple[dict, ...], str]:
    """The turns up to the last question, and the text of the assistant's turn behind them or "".

    Raises:
        BadRow: they are no chat turns, nobody asks anything, or the row has films or sounds.
    """
    other = next((kind for kind in UNREAD if row.get(kind)), "")
    if other:
        raise BadRow("message", f"the row has {other}, and only images are read")
    with bad_row("message", "message: "):
        value = turns_in(row[name])
        value = [_turn(turn) for turn in value] if isinstance(value, list) else value
    turns = parse_messages(value)
    system = row.get("system")
    if name in WITHOUT_SYSTEM and isinstance(system, str) and system.strip() and turns[0]["role"] != "system":
        turns = ({"role": "system", "content": system}, *turns)
    said = ""
    if turns[-1]["role"] == "assistant":
        said = said_in(turns[-1])
        turns = turns[:-1]
    if not turns:
        raise BadRow("message", f"nobody asks anything in {show(row[name])}")
    return turns, said


def said_in(turn: dict) -> str:
    """The text of a turn that answers.

    Raises:
        BadRow: it holds images.
    """
    if image_sources((turn,)):
        raise BadRow("response", "the assistant's last turn holds images; a response is text alone")
    return "".join(turn_texts(turn))


def _turn(turn: Any) -> Any:
    if not isinstance(turn, dict):
        return turn
    role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    if role is None or content is None:
        raise ValueError(f"expected turns with role and content, or with from and value, got {show(turn)}")
    if isinstance(content, list):
        content = [_part(part) for part in content]
    return {"role": ROLES.get(role, role) if isinstance(role, str) else role, "content": content}


def _part(part: Any) -> Any:
    """A part that says `image` and has no source stands for the next image of the row's column, or for number n."""
    if not isinstance(part, dict) or part.get("type") != "image":
        if isinstance(part, dict) and part.get("type") == "text":
            return {name: value for name, value in part.items() if name != "index"}
        return part
    if any(value for name, value in part.items() if name not in ("type", "index")):
        return part
    index = part.get("index")
    return {"type": "text", "text": "<image>" if not isinstance(index, int) else f"<image{index + 1}>"}

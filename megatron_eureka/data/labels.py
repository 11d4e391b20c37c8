"""Labels as sets have them -> the bare answer that rewards compare with: one reading for all who read labels."""

from __future__ import annotations

import re

from megatron_eureka.answers.notation import boxed, unboxed
from megatron_eureka.data.bad_row import BadRow
from megatron_eureka.data.messages import show

_TAG = re.compile(r"</?answer>", re.IGNORECASE)
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.IGNORECASE | re.DOTALL)
MAX_BARE_CHARACTERS = 60  # of a solution that is nothing but its answer


def bare_label(text: str) -> str:
    """The label without what a response wraps its answer in: `<answer>` tags, and a `\\boxed{}` around all of it.

    R1-V's sets have labels such as `<answer> B </answer>`, also behind a text in `<think>`; nothing that is compared
    with the content of a response's own tags could equal them.

    Raises:
        BadRow: it has tags that are not one pair.
    """
    bare = text
    if _TAG.search(text):
        found = _TAGGED.findall(text)
        if len(found) != 1 or len(_TAG.findall(text)) != 2:
            raise BadRow("answer", f"the answer must be bare, or in one pair of <answer> tags, got {show(text)}")
        bare = found[0].strip()
    while inside := unboxed(bare):
        bare = inside
    return bare


def final_answer(text: str) -> str | None:
    """The answer of a whole solution or demonstration: in its tags, else in its last box, else a short text itself.

    Raises:
        BadRow: it has tags that are not one pair.
    """
    bare = bare_label(text)
    if bare != text:
        return bare
    boxes = boxed(text)
    if boxes:
        return boxes[-1]
    if "\\boxed" in text:  # one that was cut off
        return None
    short = text.strip()
    return short if len(short) <= MAX_BARE_CHARACTERS and "\n" not in short else None

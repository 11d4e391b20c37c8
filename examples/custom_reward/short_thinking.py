"""A reward of your own: name this file in `reward.functions` and its components join the total.

A function gets the responses to one prompt (which stands once a response, as the label does) and returns a list of
numbers for each component that it names; the components are logged as `reward/NAME/mean`. It runs in a process of its
own while other prompts are generated, `reward.function_timeout_s` at most for a call. If it raises or takes longer, it
is called again for each sample alone, and those that fail again score 0 for this function alone; so do texts, None and
NaN where a number is wanted. A warning a step says so, `reward/failed/NAME` is the share, and a run whose function
fails on every sample of a step stops (`reward.on_failure`).
"""

import re

BONUS = 0.2
FULL_WORDS, NO_WORDS = 50, 300  # full bonus up to the first number of words of thinking, none from the second on

_THINK = re.compile(r"<think>(.*?)</think>", re.DOTALL)


def short_thinking(prompts: list[str], responses: list[str], labels: list[str]) -> dict[str, list[float]]:
    """A bonus that falls with the number of words between the thinking tags; none without them.

    Args:
        prompts: text of each sample's last user turn, images left out.
        responses: what the model wrote, without special tokens.
        labels: the data set's `answer` of each sample.
    """
    return {"short_thinking": [_bonus(response) for response in responses]}


def _bonus(response: str) -> float:
    thinking = _THINK.search(response)
    if thinking is None or not thinking.group(1).strip():
        return 0.0
    words = len(thinking.group(1).split())
    return BONUS * min(1.0, max(0.0, (NO_WORDS - words) / (NO_WORDS - FULL_WORDS)))

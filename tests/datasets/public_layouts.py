"""A made-up row of every layout that docs/data.md names, and what becomes of it."""

import json

from megatron_eureka.config.schema import ANSWER_PROMPT
from tests.data.images import encoded, triangle

ONE, TWO = (encoded(triangle(seed)) for seed in (1, 2))
THOUGHT = "<think>2 * 3</think><answer>6</answer>"
PROSE = "Both sides are given, so the area is their product, and that is six."
SYSTEM, OWN = ("system", ANSWER_PROMPT), ("system", "You help.")
ASKED = ("user", ONE, "What is the area?")


def stored(data):
    return {"bytes": data, "path": None}


def says(role, text, kind="role", content="content"):
    return {kind: role, content: text}


# Name in the page's table -> (row, turns, label, demonstration).
LAYOUTS = {
    "MMK12": (
        {"id": "1", "question": "<image>What is the area?", "answer": "$6$", "subject": "math", "image": stored(ONE)},
        *([SYSTEM, ASKED], "$6$", None),
    ),
    "Geometry3K": (
        {"images": [stored(ONE)], "problem": "<image>What is the area?", "answer": "6"},
        *([SYSTEM, ASKED], "6", None),
    ),
    "OlympiadBench": (
        {"question": "From <image_1>, the area?", "solution": ["It is 6."], "final_answer": ["6"], "image_1": ONE},
        *([SYSTEM, ("user", "From", ONE, ", the area?")], "6", None),
    ),
    "MathVista": (
        {"pid": "1", "question": "Area?", "choices": ["4", "6"], "answer": "6", "decoded_image": stored(ONE)},
        *([SYSTEM, ("user", ONE, "Area?\n(A) 4\n(B) 6\nAnswer with the letter of the right option.")], "B", None),
    ),
    "MathVision": (
        {
            **{"id": "1", "question": "Area?\n<image1>", "options": ["A", "B"], "answer": "B", "image": "images/1.jpg"},
            **{"decoded_image": stored(ONE), "solution": None},
        },
        *([SYSTEM, ("user", "Area?", ONE, "Answer with the letter of the right option.")], "B", None),
    ),
    "R1-V": (
        {"image": stored(ONE), "problem": "What is the area?", "solution": "<answer> 6 </answer>"},
        *([SYSTEM, ASKED], "6", None),
    ),
    "multimodal-open-r1-8k": (
        {"image": stored(ONE), "problem": "What is the area?", "solution": f"{THOUGHT}\n", "original_answer": "six"},
        *([SYSTEM, ASKED], "6", f"{THOUGHT}\n"),
    ),
    "MM-EUREKA": (
        {"id": "1", "message": json.dumps([says("user", "What is the area?")]), "answer": "6", "image": stored(ONE)},
        *([ASKED], "6", None),
    ),
    "MM-EUREKA with `image_urls`": (
        {
            **{"id": "1", "conversations": [says("system", "You help."), says("user", "What is the area?")]},
            **{"answer": "6", "image_urls": ["file://{folder}/own.png"]},
        },
        *([OWN, ASKED], "6", None),
    ),
    "verl": (
        {
            **{"data_source": "geo3k", "prompt": [says("user", "<image>What is the area?")], "images": [stored(ONE)]},
            **{"reward_model": {"style": "rule", "ground_truth": "6"}, "extra_info": {"split": "train"}},
        },
        *([ASKED], "6", None),
    ),
    "LLaVA": (
        {
            "id": "1",
            "image": "own.png",
            "conversations": [
                says("human", "What is it?\n<image>", "from", "value"),
                says("gpt", "A triangle.", "from", "value"),
                says("human", "What is the area?", "from", "value"),
                says("gpt", "6", "from", "value"),
            ],
        },
        [SYSTEM, ("user", "What is it?", ONE), ("assistant", "A triangle."), ("user", "What is the area?")],
        *("6", "6"),
    ),
    "ms-swift": (
        {
            "messages": [says(*OWN), says("user", "<image>What is the area?"), says("assistant", THOUGHT)],
            "images": ["own.png"],
        },
        *([OWN, ASKED], "6", THOUGHT),
    ),
    "ms-swift for GRPO": (
        {"messages": [says("user", "<image>What is the area?")], "images": [stored(ONE)], "solution": "6"},
        *([SYSTEM, ASKED], "6", None),
    ),
    "ms-swift with `query`": (
        {
            **{"system": "You help.", "query": "<image>What is the area?", "response": THOUGHT, "images": ["own.png"]},
            "history": [["What is it?", "A triangle."]],
        },
        [OWN, ("user", "What is it?"), ("assistant", "A triangle."), ASKED],
        *("6", THOUGHT),
    ),
    "LLaMA-Factory": (
        {"messages": [says("user", "<image>What is the area?"), says("assistant", "6")], "images": ["own.png"]},
        *([SYSTEM, ASKED], "6", "6"),
    ),
    "LLaMA-Factory's ShareGPT": (
        {
            "conversations": [
                says("human", "<image>What is the area?", "from", "value"),
                says("gpt", f"{THOUGHT}<|im_end|>", "from", "value"),
            ],
            **{"system": "You help.", "images": ["own.png"]},
        },
        *([OWN, ASKED], "6", THOUGHT),
    ),
    "Alpaca": (
        {"instruction": "What is", "input": "the area?", "output": THOUGHT, "images": ["own.png"]},
        *([SYSTEM, ("user", ONE, "What is\nthe area?")], "6", THOUGHT),
    ),
    "TRL": (
        {
            "prompt": [says("user", [{"type": "image", "text": None}, {"type": "text", "text": "What is the area?"}])],
            "completion": [says("assistant", [{"type": "text", "text": THOUGHT}])],
            "images": [stored(ONE)],
        },
        *([ASKED], "6", THOUGHT),
    ),
    "llava-instruct-mix-vsft": (
        {
            "messages": [
                says(
                    "user",
                    [
                        {"index": None, "text": "Not this:", "type": "text"},
                        {"index": 1, "text": None, "type": "image"},
                        {"index": None, "text": "What is the area?", "type": "text"},
                        {"index": 0, "text": None, "type": "image"},
                    ],
                ),
                says("assistant", [{"index": None, "text": PROSE, "type": "text"}]),
            ],
            "images": [stored(ONE), stored(TWO)],
        },
        [SYSTEM, ("user", "Not this:", TWO, "What is the area?", ONE)],
        *(None, PROSE),
    ),
}  # fmt: skip

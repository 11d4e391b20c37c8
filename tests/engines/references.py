"""Prompts as the trainer makes them, and log-probs by transformers."""

import hashlib

import numpy as np
import torch
from PIL import Image

from megatron_eureka.types import ImageKey, Prompt

QUESTION = "What is the sum of the two digits?"


def noise(seed, size=(56, 28)):
    """An image of random pixels, its sides multiples of 28 so that nothing resizes it."""
    pixels = np.random.RandomState(seed).randint(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def make_prompt(folder, images=(), text=QUESTION, index=0):
    """Both forms of a prompt's ids by the model's own processor."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    content = [{"type": "image"} for _ in images] + [{"type": "text", "text": text}]
    chat = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    batch = processor(text=[chat], images=list(images) or None, return_tensors="pt")
    keys = []
    for image, grid in zip(images, batch.get("image_grid_thw", []), strict=True):
        grid = tuple(grid.tolist())
        digest = hashlib.sha256(image.tobytes()).hexdigest()
        keys.append(ImageKey(digest, grid, grid[0] * grid[1] * grid[2] // 4))
    return Prompt(
        id=f"prompt-{index}",
        place=f"made up:{index}",
        messages=({"role": "user", "content": text},),
        answer="",
        token_ids=tuple(batch["input_ids"][0].tolist()),
        engine_token_ids=tuple(processor.tokenizer(chat)["input_ids"]),
        images=tuple(keys),
    )


def load_reference(folder):
    """transformers' model and processor."""
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoProcessor.from_pretrained(folder)


def reference_logprobs(reference, prompt, images, response, suppressed, temperature=1.0):
    """Log-probs [response, vocabulary] of one response, the suppressed ids masked before normalising."""
    model, processor = reference
    ids = torch.tensor([[*prompt.token_ids, *response]])
    inputs = {"input_ids": ids, "mm_token_type_ids": (ids == model.config.image_token_id).long()}
    if images:
        pixels = processor.image_processor(images=list(images), return_tensors="pt")
        inputs |= {"pixel_values": pixels["pixel_values"], "image_grid_thw": pixels["image_grid_thw"]}
    with torch.no_grad():
        logits = model(**inputs).logits[0, prompt.num_tokens - 1 : -1].float()
    logits[:, list(suppressed)] = -torch.inf
    return (logits / temperature).log_softmax(-1)


def taken(logprobs, response):
    """The log-probs [response] of the tokens of a response."""
    return logprobs.gather(1, torch.tensor(response)[:, None])[:, 0]

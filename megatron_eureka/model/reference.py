"""transformers' own model, for comparison."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from megatron_eureka.families.source import ModelSource
from megatron_eureka.model.tower import PixelSource
from megatron_eureka.parallel.groups import device
from megatron_eureka.types import Prompt


def reference_model(source: ModelSource) -> torch.nn.Module:
    """transformers' model of a Hugging Face folder, in float32 on this rank's device, for evaluation."""
    model_class = source.family.named("transformers_class")
    return model_class.from_pretrained(source.path, dtype=torch.float32).to(device()).eval()


@torch.no_grad()
def reference_logits(source: ModelSource, prompts: Sequence[Prompt], pixels: PixelSource) -> list[torch.Tensor]:
    """[tokens, vocabulary] float32 of each prompt on its own, on the CPU. The model runs in float32."""
    model = reference_model(source)
    return [reference_forward(model, prompt, prompt.token_ids, pixels)[0].cpu() for prompt in prompts]


def reference_forward(
    model: torch.nn.Module, prompt: Prompt, token_ids: Sequence[int], pixels: PixelSource
) -> torch.Tensor:
    """[1, tokens, vocabulary] logits of one sequence that begins with a prompt's images and text."""
    ids = torch.tensor([token_ids], device=model.device)
    extra = {}
    if prompt.images:
        extra["pixel_values"] = torch.cat([pixels(image) for image in prompt.images]).to(model.device)
        extra["image_grid_thw"] = torch.tensor([image.grid_thw for image in prompt.images], device=model.device)
        extra["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
    return model(input_ids=ids, attention_mask=torch.ones_like(ids), **extra).logits

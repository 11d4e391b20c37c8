"""Logits of two forms of one model: transformers on a Hugging Face folder, Megatron-Core on a checkpoint of it.

Equal weights can still be read wrongly, by a wrong rope, norm or order of heads. Equal logits on text, on an image and
on several images say that both programs compute the same function.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from megatron_eureka.checkpoints.megatron_loader import load_megatron
from megatron_eureka.config.model_info import ModelInfo, VisionInfo
from megatron_eureka.config.schema import Config
from megatron_eureka.data.packing import Item, pack
from megatron_eureka.families.source import ModelSource
from megatron_eureka.log import logger
from megatron_eureka.model.build import build_model, named_weights
from megatron_eureka.model.reference import reference_logits
from megatron_eureka.model.rows import to_device
from megatron_eureka.model.tower import PixelSource, run_tower
from megatron_eureka.parallel import groups
from megatron_eureka.parallel.layout import Layout
from megatron_eureka.types import ImageKey, Prompt

# Of the largest logit. Both compute in float32 (24 bits), in another order of sums: a model of 80 layers stays a factor
# of a hundred above the rounding of one sum, while a wrong weight changes logits by tenths.
TOLERANCE = 1e-4
GRIDS = ((1, 4, 8), (1, 8, 4), (1, 6, 6))  # of the images, in patches
TEXT_TOKENS = 24  # between images


@dataclass(frozen=True)
class LogitComparison:
    """How far apart the two are."""

    num_positions: int
    largest_difference: float
    largest_logit: float  # of transformers, in absolute value
    same_choice: float  # fraction of positions at which the most likely token is the same

    @property
    def equal(self) -> bool:
        return self.largest_difference <= TOLERANCE * self.largest_logit

    def __str__(self) -> str:
        return (
            f"logits {'equal' if self.equal else 'DIFFERENT'}: {self.num_positions} positions, largest difference "
            f"{self.largest_difference:.3g} of logits up to {self.largest_logit:.3g} (allowed: {TOLERANCE:g} of that), "
            f"same most likely token at {self.same_choice:.2%}"
        )


def compare_logits(hf: str | Path, megatron: str | Path) -> LogitComparison:
    """Run both models in float32, one after the other, on made-up prompts with random images.

    Uses the GPU where there is one. Starts a process group of one rank, and ends it.

    Raises:
        ValueError: a folder is damaged, or the two are models of other sizes.
    """
    source = ModelSource.open(hf)
    prompts = made_up_prompts(source.info)
    logger.info("running transformers on %s", hf)
    pixels = partial(random_pixels, source.info.vision)
    expected = reference_logits(source, prompts, pixels)
    logger.info("running Megatron-Core on %s", megatron)
    got = _megatron_logits(ModelSource.open(megatron), prompts, pixels)
    one, two = torch.cat(expected), torch.cat(got)
    return LogitComparison(
        num_positions=len(one),
        largest_difference=float((one - two).abs().max()),
        largest_logit=float(one.abs().max()),
        same_choice=float((one.argmax(-1) == two.argmax(-1)).float().mean()),
    )


def made_up_prompts(info: ModelInfo) -> list[Prompt]:
    """Text alone and, of a model that sees, one image and several of different shapes; drawn with a fixed seed."""
    of_prompts = [(), GRIDS[:1], GRIDS] if info.vision else [()]
    return [_prompt(info, number, grids) for number, grids in enumerate(of_prompts)]


def _prompt(info: ModelInfo, number: int, grids: tuple[tuple[int, int, int], ...]) -> Prompt:
    generator = torch.Generator().manual_seed(number)
    special = min(
        info.image_token_id or info.vocab_size, info.vision_start_token_id or info.vocab_size, info.vocab_size
    )

    def text():
        return torch.randint(special, (TEXT_TOKENS,), generator=generator).tolist()

    images = [_image(grid, info.vision.spatial_merge_size) for grid in grids]
    tokens = text()
    for image in images:
        tokens += [info.vision_start_token_id, *[info.image_token_id] * image.num_tokens, *text()]
    return Prompt(f"made up {number}", "", (), "", tuple(tokens), tuple(tokens), tuple(images))


def _image(grid: tuple[int, int, int], merge_size: int) -> ImageKey:
    time, height, width = grid
    return ImageKey(f"{time} x {height} x {width}", grid, time * height * width // merge_size**2)


def random_pixels(vision: VisionInfo, image: ImageKey) -> torch.Tensor:
    """Random patches of an image [patches, channels * time * patch * patch], the same for the same grid."""
    time, height, width = image.grid_thw
    generator = torch.Generator().manual_seed(height * 100 + width)
    patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    return torch.randn(time * height * width, patch, generator=generator)


def _megatron_logits(source: ModelSource, prompts: list[Prompt], pixels: PixelSource) -> list[torch.Tensor]:
    config = Config.model_validate({"precision": {"dtype": "fp32"}})
    with tempfile.TemporaryDirectory() as rendezvous:
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, init_method=f"file://{rendezvous}/store", rank=0, world_size=1)
        try:
            process_groups = groups.start(Layout(), seed=0)
            model = build_model(source, config.model, config.parallel, config.precision, process_groups)
            load_megatron(source.path, model, named_weights(model), source.info)
            return list(_forward(model[0], source.info, prompts, pixels))
        finally:
            groups.stop()


@torch.no_grad()
def _forward(
    model: torch.nn.Module, info: ModelInfo, prompts: list[Prompt], pixels: PixelSource
) -> Iterator[torch.Tensor]:
    for prompt in prompts:
        item = Item(prompt, (), ())
        row = to_device(pack([item], prompt.num_tokens, info))
        images = run_tower(model.visual, list(row.images), pixels) if row.images else None
        hidden = model(row, images)
        yield (hidden[:, 0] @ model.language_model.head_weight().T).cpu()

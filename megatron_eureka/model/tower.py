"""The vision tower: transformers' own module on the first stage, and one encoding of each distinct image."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from megatron_eureka.types import ImageKey

PixelSource = Callable[[ImageKey], torch.Tensor]  # -> [patches, channels * time * patch * patch] float32


def build_tower(hf_config: Qwen2_5_VLConfig, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    """An uninitialised-in-meaning tower: its weights are loaded afterwards. Rotary buffers stay FP32."""
    vision_config = hf_config.vision_config
    tower = Qwen2_5_VisionTransformerPretrainedModel._from_config(
        vision_config, dtype=dtype, attn_implementation="sdpa"
    )
    return tower.to(device)


def run_tower(tower: torch.nn.Module, images: list[ImageKey], pixels: PixelSource) -> torch.Tensor:
    """Encode images in one call, each distinct one once -> [visual tokens of all images, hidden], in their order."""
    device, dtype = next(tower.parameters()).device, tower.dtype
    distinct = list(dict.fromkeys(images))
    values = torch.cat([pixels(image) for image in distinct]).to(device=device, dtype=dtype)
    grids = torch.tensor([image.grid_thw for image in distinct], device=device)
    encoded = tower(values, grid_thw=grids).pooler_output
    if len(distinct) == len(images):
        return encoded
    parts = dict(zip(distinct, encoded.split([image.num_tokens for image in distinct]), strict=True))
    return torch.cat([parts[image] for image in images])


class ImageEncoder:
    """Embeddings of images under a frozen tower, each distinct image encoded once while it is remembered.

    The images of a batch are split over the tensor-parallel ranks, which hold the same tower, and the embeddings are
    gathered.
    """

    def __init__(self, tower: torch.nn.Module, pixels: PixelSource, group: dist.ProcessGroup, max_patches: int = 16384):
        self.tower, self.pixels, self.group, self.max_patches = tower, pixels, group, max_patches
        self.embeddings: dict[ImageKey, torch.Tensor] = {}
        self.passes = 0

    @torch.no_grad()
    def remember(self, images: Iterable[ImageKey]) -> int:
        """Encode what is not known yet, forget what is not asked for; a collective over the tensor-parallel group.

        Returns:
            the number of distinct images asked for.
        """
        wanted = sorted(set(images), key=lambda image: (image.digest, image.grid_thw))
        self.embeddings = {image: self.embeddings[image] for image in wanted if image in self.embeddings}
        new = [image for image in wanted if image not in self.embeddings]
        size, rank = dist.get_world_size(self.group), dist.get_rank(self.group)
        mine = self._encode(new[rank::size])
        for owner in range(size):
            for number, image in enumerate(new[owner::size]):
                self.embeddings[image] = self._shared(mine[number] if owner == rank else None, image, owner)
        return len(wanted)

    def take_passes(self) -> int:
        """Images that this rank ran through the tower since the last call."""
        passes, self.passes = self.passes, 0
        return passes

    def _encode(self, images: list[ImageKey]) -> list[torch.Tensor]:
        self.passes += len(images)
        outputs: list[torch.Tensor] = []
        batch: list[ImageKey] = []
        for position, image in enumerate(images):
            batch.append(image)
            if (
                position + 1 == len(images)
                or sum(_patches(i) for i in [*batch, images[position + 1]]) > self.max_patches
            ):
                encoded = run_tower(self.tower, batch, self.pixels)
                outputs.extend(encoded.split([i.num_tokens for i in batch]))
                batch = []
        return outputs

    def _shared(self, embedding: torch.Tensor | None, image: ImageKey, owner: int) -> torch.Tensor:
        if dist.get_world_size(self.group) == 1:
            return embedding
        if embedding is None:
            like = next(self.tower.parameters())
            hidden = self.tower.config.out_hidden_size
            embedding = torch.empty(image.num_tokens, hidden, device=like.device, dtype=like.dtype)
        embedding = embedding.contiguous()  # gloo broadcasts a view's storage, not the view
        dist.broadcast(embedding, dist.get_global_rank(self.group, owner), group=self.group)
        return embedding

    def __call__(self, images: Iterable[ImageKey]) -> torch.Tensor:
        """[visual tokens, hidden] of remembered images, in the order given."""
        return torch.cat([self.embeddings[image] for image in images])


def _patches(image: ImageKey) -> int:
    time, height, width = image.grid_thw
    return time * height * width

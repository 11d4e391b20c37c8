"""Images: opened and resized at most once a rank and run, named by content, kept in bounded memory and on disk."""

from __future__ import annotations

import base64
import binascii
import hashlib
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from megatron_eureka.data.decoding import decode, on_white, read_header
from megatron_eureka.data.image_files import read_image_file
from megatron_eureka.families.resizing import resize, resized_size
from megatron_eureka.files import write_atomically
from megatron_eureka.types import ImageKey

if TYPE_CHECKING:
    import torch

    from megatron_eureka.config.schema import Data

MIB = 1 << 20


class ImageStore:
    """The resized images of a rank.

    `add` reads a source's bytes and header, so grids are known before anything is decoded. `image` and `pixels` decode
    and resize on first use; later uses come from memory or, once the memory is full, from files in `spill_dir`.

    Args:
        image_processor: the model's; gives patch sizes and normalises pixels. It is never allowed to resize. None: the
            model reads text alone, and every image is refused.
        min_pixels, max_pixels: bounds of the area after resizing.
        cache_mib: memory for resized images.
        spill_dir: folder for images that memory does not hold; a temporary one by default. Ranks may share it.
        verify: decode every image when it is added, so that broken ones show at once.
    """

    def __init__(
        self,
        image_processor: Any,
        min_pixels: int,
        max_pixels: int,
        cache_mib: int = 1024,
        spill_dir: str | Path | None = None,
        verify: bool = False,
    ):
        self.image_processor = image_processor
        self.patch_size: int = image_processor.patch_size if image_processor is not None else 0
        self.merge_size: int = image_processor.merge_size if image_processor is not None else 0
        self.min_pixels = min_pixels
        self.max_pixels = max_pixels
        self.verify = verify
        self.counters = {"added": 0, "decoded": 0, "memory_hits": 0, "disk_hits": 0}
        self._cache_bytes = cache_mib * MIB
        self._cached_bytes = 0
        self._cache: OrderedDict[str, Image.Image] = OrderedDict()  # oldest use first
        self._sources: dict[str, str] = {}  # digest -> resolved path or data URI
        self._keys: dict[str, ImageKey] = {}  # source -> key, so that a shared image is read once
        self._temporary = None if spill_dir else tempfile.TemporaryDirectory(prefix="megatron_eureka_images_")
        self._spill = Path(spill_dir or self._temporary.name)
        self._spill.mkdir(parents=True, exist_ok=True)

    @classmethod
    def from_options(cls, options: Data, image_processor: Any, spill_dir: str | Path | None = None) -> ImageStore:
        """A store with the bounds and the memory of the `data` section."""
        return cls(
            image_processor,
            options.min_pixels,
            options.max_pixels,
            options.image_cache_mib,
            spill_dir,
            options.verify_images,
        )

    def add(self, source: str, root: str | Path = "") -> ImageKey:
        """Register an image and return its name, grid and number of tokens.

        Args:
            source: `file://` URL, absolute path, path relative to `root`, or `data:image/...;base64,` URI.
            root: folder that relative paths start from.

        Raises:
            ValueError: the source is missing, is no image, is extremely long and narrow, or the model does not see;
                names the source.
        """
        source = resolve(source, root)
        if self.image_processor is None:
            raise ValueError(f"{_short(source)}: the model reads text alone. Leave images out, or take one that sees.")
        if source in self._keys:
            return self._keys[source]
        data = read_bytes(source)
        digest = self._digest(data)
        try:
            header = read_header(data)
        except ValueError as error:
            raise ValueError(f"{_short(source)} is {error}") from error
        height, width = self._resized_size(header.height, header.width, source)
        grid = (1, height // self.patch_size, width // self.patch_size)
        key = ImageKey(digest, grid, grid[1] * grid[2] // self.merge_size**2)
        self._sources.setdefault(digest, source)
        if self.verify:
            self.image(key)
        self._keys[source] = key
        self.counters["added"] += 1
        return key

    def image(self, key: ImageKey) -> Image.Image:
        """The resized RGB image; what an engine gets. Do not change it in place.

        Raises:
            ValueError: the key is unknown here, the image is broken, or its file changed since it was added.
        """
        if key.digest in self._cache:
            self._cache.move_to_end(key.digest)
            self.counters["memory_hits"] += 1
            return self._cache[key.digest]
        size = (key.grid_thw[2] * self.patch_size, key.grid_thw[1] * self.patch_size)
        spilled = self._spill / key.digest
        if spilled.exists():
            self.counters["disk_hits"] += 1
            image = Image.frombytes("RGB", size, spilled.read_bytes())
        else:
            image = self._decode(key)
        self._keep(key.digest, image)
        return image

    def pixels(self, key: ImageKey) -> torch.Tensor:
        """Normalised patches for the vision tower: [grid product, channels x temporal x patch x patch] float32."""
        return self.image_processor(images=[self.image(key)], do_resize=False, return_tensors="pt")["pixel_values"]

    def close(self) -> None:
        """Forget the images and remove the temporary folder."""
        self._cache.clear()
        self._cached_bytes = 0
        if self._temporary is not None:
            self._temporary.cleanup()

    def _digest(self, data: bytes) -> str:
        return hashlib.sha256(data + f"|{self.min_pixels}|{self.max_pixels}".encode()).hexdigest()

    def _resized_size(self, height: int, width: int, source: str) -> tuple[int, int]:
        factor = self.patch_size * self.merge_size
        try:
            size = resized_size(height, width, factor, self.min_pixels, self.max_pixels)
        except (ValueError, ZeroDivisionError) as error:
            raise ValueError(f"{_short(source)} ({width} x {height}): {error}. Crop or pad it.") from error
        # Engines run the model's processor again: it must find nothing to do, or prompts would differ in length.
        if min(size) == 0 or resized_size(*size, factor, self.min_pixels, self.max_pixels) != size:
            raise ValueError(
                f"{_short(source)} ({width} x {height}) resizes to {size[1]} x {size[0]}, which data.min_pixels = "
                f"{self.min_pixels} and data.max_pixels = {self.max_pixels} would resize again. Widen the bounds."
            )
        return size

    def _decode(self, key: ImageKey) -> Image.Image:
        source = self._sources.get(key.digest)
        if source is None:
            raise ValueError(f"Image {key.digest[:12]} is not in this store. Load the prompts on every rank first.")
        data = read_bytes(source)
        if self._digest(data) != key.digest:
            raise ValueError(f"{_short(source)} changed since the data was loaded. Start again with files at rest.")
        try:
            decoded = on_white(decode(data))
        except ValueError as error:
            raise ValueError(f"{_short(source)} is {error}") from error
        image = resize(decoded, self.min_pixels, self.max_pixels, self.patch_size)
        self.counters["decoded"] += 1
        return image

    def _keep(self, digest: str, image: Image.Image) -> None:
        """Put an image into memory; the images unused longest go to disk when it is full."""
        self._cache[digest] = image
        self._cached_bytes += _num_bytes(image)
        while self._cached_bytes > self._cache_bytes and self._cache:
            oldest, evicted = self._cache.popitem(last=False)
            self._cached_bytes -= _num_bytes(evicted)
            target = self._spill / oldest
            if not target.exists():
                write_atomically(target, evicted.tobytes(), sync=False)  # nodes may share the folder


def resolve(source: str, root: str | Path = "") -> str:
    """An absolute path, or the data URI itself.

    Raises:
        ValueError: a network address; images must be local.
    """
    if source.startswith("data:"):
        return source
    if source.startswith(("http://", "https://")):
        raise ValueError(f"{_short(source)}: images are read from disk only. Download it and give its path.")
    path = source[len("file://") :] if source.startswith("file://") else source
    return str(Path(root).absolute() / path)


def read_bytes(source: str) -> bytes:
    """The encoded image behind a resolved source.

    Raises:
        ValueError: there is none; names the source.
    """
    if not source.startswith("data:"):
        return read_image_file(source)
    head, _, payload = source.partition(",")
    if not head.startswith("data:image/") or not head.endswith(";base64"):
        raise ValueError(f"{_short(source)}: expected data:image/...;base64,... .")
    try:
        return base64.b64decode(payload, validate=True)
    except binascii.Error as error:
        raise ValueError(f"{_short(source)}: not valid base64: {error}.") from error


def _short(source: str) -> str:
    return source if len(source) <= 300 else f"{source[:60]}..."


def _num_bytes(image: Image.Image) -> int:
    return image.width * image.height * 3

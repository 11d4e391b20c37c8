"""The files that weights lie in: Hugging Face folders, Megatron checkpoints (`torch_dist`), and the ways between them.

Four words for a range of bytes, here and in `weights/`:

    cut     a range of a tensor along one dim, and its offset in a tensor that is put together of cuts (`weights.Cut`)
    box     a range of a stored tensor along all dims, starts and sizes; torch calls it a chunk (`torch_dist.StoredBox`)
    block   whole rows, as many as are in memory at a time (`streaming.Streamer.blocks`)
    extent  consecutive bytes of a file, of a tensor or of a box's archive (`files.Extent`)

A `Transfer` of a plan says which cuts fill a box; a `Streamer` moves it block by block from extent to extent. What is
whole is a tensor (Hugging Face's or stored), a shard (a tensor-parallel rank's parameter) or a file.

Not imported here, for converting needs no Megatron-Core: `megatron_loader.py` (into a rank's chunks) and
`in_process_writer.py` (a run's own checkpoints).
"""

from megatron_eureka.checkpoints.companions import describe, read_description
from megatron_eureka.checkpoints.conversion import Conversion
from megatron_eureka.checkpoints.finite import check_finite
from megatron_eureka.checkpoints.hf_loader import load_hf
from megatron_eureka.checkpoints.hf_writer import HfWriter, export_hf, save_hf
from megatron_eureka.checkpoints.keys import check_hf_keys, check_megatron_keys
from megatron_eureka.checkpoints.to_hf import megatron_to_hf
from megatron_eureka.checkpoints.to_megatron import hf_to_megatron
from megatron_eureka.checkpoints.verify import Difference, Verification, verify

__all__ = [
    "Conversion",
    "Difference",
    "HfWriter",
    "Verification",
    "check_finite",
    "check_hf_keys",
    "check_megatron_keys",
    "describe",
    "export_hf",
    "hf_to_megatron",
    "load_hf",
    "megatron_to_hf",
    "read_description",
    "save_hf",
    "verify",
]

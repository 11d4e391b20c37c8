"""The files that weights lie in: Hugging Face folders, Megatron checkpoints (`torch_dist`), and the ways between them.

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

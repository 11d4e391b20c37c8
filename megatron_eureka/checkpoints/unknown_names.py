"""Names of tensors that no rule knows: which of them do not matter, and where the others come from."""

from __future__ import annotations

from collections.abc import Iterable

# Frequencies of rotary positions: buffers that some releases saved. Everybody computes them from the config.
BUFFERS = ("rotary_emb.inv_freq", "rotary_pos_emb.inv_freq")
_QUANTIZED = {
    ".qweight": "AWQ or GPTQ",
    ".qzeros": "AWQ or GPTQ",
    ".scales": "AWQ or GPTQ",
    ".g_idx": "GPTQ",
    ".absmax": "bitsandbytes",
    ".quant_map": "bitsandbytes",
    ".SCB": "bitsandbytes",
    ".weight_scale": "FP8 or compressed-tensors",
    ".weight_scale_inv": "FP8",
    ".weight_packed": "compressed-tensors",
}
_WRAPPERS = {
    "module.": "torch's DistributedDataParallel or DeepSpeed",
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "torch's FSDP",
}


def is_buffer(name: str) -> bool:
    """Whether a tensor is none of the weights and can be left out."""
    return name.endswith(BUFFERS)


def cause(names: Iterable[str]) -> str:
    """A sentence about where unknown names come from and what to do; empty if nobody knows.

    Args:
        names: of tensors, as they are stored.
    """
    names = list(names)
    if any(".lora_" in name or ".modules_to_save." in name or ".base_layer." in name for name in names):
        return (
            "These are the names of a model that peft still wraps (LoRA). Merge the adapter, with peft's "
            "merge_and_unload, and save the result."
        )
    if any(name.startswith("base_model.model.") for name in names):
        return "The prefix base_model.model. is peft's: save the model itself, after merge_and_unload, not its wrapper."
    for suffix, method in _QUANTIZED.items():
        if any(name.endswith(suffix) for name in names):
            return f"The weights are quantised ({method}). Give the model's original weights, they cannot be trained."
    for prefix, wrapper in _WRAPPERS.items():
        if any(name.startswith(prefix) or f".{prefix}" in name for name in names):
            return (
                f"The prefix {prefix} is that of {wrapper}: save the model inside it (with transformers' "
                "save_pretrained), or rename the tensors."
            )
    return ""

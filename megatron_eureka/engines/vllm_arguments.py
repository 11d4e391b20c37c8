"""What vLLM is built with and asked, in its own words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from megatron_eureka.engines.options import EngineOptions
from megatron_eureka.engines.plugin import BACKEND, CPU_WORKER, EMPTY, JOB_KEY
from megatron_eureka.engines.protocol import GenerateRequest
from megatron_eureka.engines.token_mask import TOKEN_MASK, TOKENS_KEY


def llm_arguments(options: EngineOptions, on_cpu: bool, suppressed: Sequence[int], job: str) -> dict[str, Any]:
    """Keywords of `vllm.LLM`.

    Args:
        suppressed: ids of tokens that no response may hold.
        job: a name that no other job on the machine has, the same on all ranks.
    """
    arguments = {
        "model": str(options.source.hf),
        "distributed_executor_backend": "external_launcher",
        "tensor_parallel_size": options.tp,
        "dtype": options.dtype,
        "seed": options.seed,
        "max_model_len": options.max_model_tokens,
        "max_num_seqs": options.max_num_seqs,
        "logprobs_mode": "processed_logprobs",
        "use_tqdm_on_load": False,
        "load_format": "auto" if options.from_folder else EMPTY,
        "weight_transfer_config": {"backend": BACKEND},
        "logits_processors": [TOKEN_MASK],
        "additional_config": {TOKENS_KEY: list(suppressed), JOB_KEY: job},
    }
    images = options.source.family.engine_images
    if images is not None:
        arguments |= images(options.max_images, options.max_pixels)
    if on_cpu:
        return arguments | {
            "enforce_eager": True,
            "kv_cache_memory_bytes": options.kv_cache_bytes,
            "worker_cls": CPU_WORKER,
        }
    return arguments | {"enable_sleep_mode": True, "gpu_memory_utilization": options.gpu_memory_utilization}


def vllm_prompt(request: GenerateRequest) -> dict[str, Any]:
    """A prompt as vLLM takes it: one placeholder an image, which it expands, and the resized images by content."""
    prompt = {"prompt_token_ids": list(request.prompt.engine_token_ids)}
    if request.images:
        prompt["multi_modal_data"] = {"image": list(request.images)}
        prompt["multi_modal_uuids"] = {"image": [key.digest for key in request.prompt.images]}
    return prompt

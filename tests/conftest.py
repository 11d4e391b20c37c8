"""Imports the package before anything imports transformers or vLLM: on CPU it makes CUDA-linked wheels importable."""

import megatron_eureka  # noqa: F401

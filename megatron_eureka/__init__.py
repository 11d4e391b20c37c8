"""megatron_eureka: GRPO for Qwen2.5-VL on Megatron-Core and vLLM."""

from megatron_eureka.cpu_wheels import allow_cuda_linked_wheels

__version__ = "0.1.0"

allow_cuda_linked_wheels()

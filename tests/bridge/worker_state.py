"""What a vLLM worker computes with, as tensors that two engines can be compared by."""

import torch


def worker_model(engine):
    """The model inside this rank's vLLM worker."""
    return engine._llm.llm_engine.model_executor.driver_worker.worker.model_runner.model


def worker_state(engine):
    """Every parameter and, where CPU kernels hold a packed copy instead, the matrix read back through the kernel.

    A packed matrix multiplies an identity: each product has one term, so the result is the weight bit for bit.
    """
    model, state = worker_model(engine), {}
    dtype = getattr(torch, engine.options.dtype)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        state[name] = parameter.detach().clone()
    for name, module in model.named_modules():
        if hasattr(module, "cpu_linear"):
            size = module.input_size_per_partition if hasattr(module, "input_size_per_partition") else None
            size = size or getattr(module, "input_size", None) or module.embedding_dim
            state[f"{name}.packed"] = module.cpu_linear(torch.eye(size, dtype=dtype), module.weight, None)
    return state

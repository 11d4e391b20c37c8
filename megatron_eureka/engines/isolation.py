"""Keep what an engine does to its process away from the trainer that lives in the same one."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch._dynamo.config

# Read by vLLM and Hugging Face when they are imported or when an engine starts. In-process engines are what
# `external_launcher` needs; no run reports to anyone or asks a hub for anything.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
DEFAULTS = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
# CPU: the trainer's threads stay where they are, and nothing is compiled (a first generation would take 16 s).
# vLLM's warnings there are about what a CPU does not have, a dozen at each start.
CPU_DEFAULTS = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


def set_environment(on_cpu: bool) -> None:
    """Set what has to stand in the environment before vLLM is imported; the user's own values of defaults win."""
    os.environ.update(ENVIRONMENT)
    defaults = DEFAULTS | (CPU_DEFAULTS if on_cpu else {"VLLM_LOGGING_LEVEL": "WARNING"})
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    if on_cpu:
        logging.getLogger("vllm").setLevel(logging.ERROR)  # until vLLM reads the level from the environment
        # The environment variable is read once, at an import that may have happened long ago.
        torch._dynamo.config.disable = True


@contextmanager
def torch_state_kept() -> Iterator[None]:
    """Restore random states, the number of threads and torch's own functions afterwards.

    A starting engine seeds the global generators of torch, numpy and random, and vLLM's CPU worker replaces
    `torch.set_num_threads` by a function that does nothing.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    set_num_threads, num_threads = torch.set_num_threads, torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads = set_num_threads
        if torch.get_num_threads() != num_threads:
            torch.set_num_threads(num_threads)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)

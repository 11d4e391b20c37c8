"""The CPU view of torch that Megatron-Core's modules get."""

import gc
import sys
import threading
import time

import pytest
import torch
from megatron.core.tensor_parallel import random

from megatron_eureka.parallel import cpu_shim


class Yielding:
    """Garbage whose end lets other threads run: the collector may meet it in any allocation."""

    def __init__(self):
        self.itself = self

    def __del__(self):
        time.sleep(0.001)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the view is a CPU's")
def test_it_is_installed_while_another_thread_imports(monkeypatch):
    """As at the start of every run, where vLLM is imported in a thread meanwhile."""
    stop, names = threading.Event(), []

    def import_one_after_another():
        while not stop.is_set():
            names.append(f"megatron_eureka_{len(names)}")
            sys.modules[names[-1]] = torch
            time.sleep(1e-4)

    thread = threading.Thread(target=import_one_after_another)
    thread.start()
    try:
        for _ in range(5):
            monkeypatch.setattr(random, "torch", torch)  # as if it were the first time
            gc.collect()
            for _ in range(5):
                Yielding()
            cpu_shim.install()
            assert random.torch is not torch
    finally:
        stop.set()
        thread.join()
        for name in names:
            del sys.modules[name]

"""vLLM's CPU worker, with what a job of several ranks and seeded sampling need. Only a CPU may import this.

vLLM's own module replaces functions of `torch.cuda` and `torch.accelerator` for the whole process.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from vllm.v1.worker import cpu_worker
from vllm.v1.worker.cpu_model_runner import CPUModelRunner
from vllm.v1.worker.cpu_worker import CPUWorker

from megatron_eureka.engines.plugin import JOB_KEY


class RewindingModelRunner(CPUModelRunner):
    """Takes back what it drew for a prompt that is not read to its end yet.

    A prompt that is prefilled in pieces draws a token after each, and all but the last are thrown away. vLLM then turns
    the request's generator back by its offset, which a CPU generator does not have.
    """

    def _sample(self, *arguments: Any, **options: Any) -> Any:
        generators = self.input_batch.generators
        before = [(generators[index], generators[index].get_state()) for index in self._unfinished()]
        output = super()._sample(*arguments, **options)
        for generator, state in before:
            generator.set_state(state)
        return output

    def _bookkeeping_sync(self, *arguments: Any, **options: Any) -> Any:
        batch, generators, unfinished = self.input_batch, self.input_batch.generators, set(self._unfinished())
        batch.generators = {index: generator for index, generator in generators.items() if index not in unfinished}
        try:
            return super()._bookkeeping_sync(*arguments, **options)
        finally:
            batch.generators = generators

    def _unfinished(self) -> list[int]:
        """Places in the batch of seeded requests whose token of this step is thrown away."""
        thrown_away = np.nonzero(self.discard_request_mask.np[: self.input_batch.num_reqs])[0].tolist()
        return [index for index in thrown_away if index in self.input_batch.generators]


cpu_worker.CPUModelRunner = RewindingModelRunner  # what `init_device` builds


class CpuWorker(CPUWorker):
    """vLLM's CPU worker with shared memory that belongs to one job.

    Under `external_launcher` vLLM names the segments of a tensor-parallel group the same in every job and leaves them
    behind when a process is killed, so a second job on the machine dies with "errno: 17". Here the name holds the job's
    identity (`additional_config`), and the names are removed as soon as all ranks have mapped the segments.
    """

    def init_device(self) -> None:
        identity = self.vllm_config.additional_config[JOB_KEY]
        # Nothing connects to this address, the default group exists already; what follows the colon names segments.
        self.distributed_init_method = f"env://:{identity}"
        super().init_device()
        torch.distributed.barrier()
        for segment in Path("/dev/shm").glob(f"*{identity}-*-cpushm_*"):
            segment.unlink(missing_ok=True)

"""Memory and time of the loss on a large vocabulary: ours beside naive PyTorch, TRL's and Liger's, in one run.

    OMP_NUM_THREADS=1 python tools/bench/loss_memory.py [--tokens 1024] [--out docs/measurements/loss_memory.json]

Each way computes the same on-policy GRPO loss from the same float32 hidden states and head, forward and backward, in a
process of its own. Memory is the peak beyond the two gradients that each of them has to make; seconds are CPU seconds,
the best of `--repeats` interleaved runs. Liger is left out, and said so, where liger-kernel is not installed. Ours also
computes entropies, which the others do not.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import platform
import time
import warnings
from datetime import date
from pathlib import Path

import megatron_eureka  # noqa: F401  (before transformers)

# isort: split
import torch
import torch.distributed as dist

VOCABULARY, HIDDEN, SAMPLES = 151_936, 896, 4
MIB = 2**20


def inputs(num_tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states [samples, tokens, H], head [V, H], targets [samples, tokens], advantages [samples]."""
    generator = torch.Generator().manual_seed(0)
    length = num_tokens // SAMPLES
    hidden = torch.randn(SAMPLES, length, HIDDEN, generator=generator).requires_grad_()
    weight = torch.empty(VOCABULARY, HIDDEN).normal_(0, 0.02, generator=generator).requires_grad_()
    targets = torch.randint(VOCABULARY, (SAMPLES, length), generator=generator)
    return hidden, weight, targets, torch.randn(SAMPLES, generator=generator)


def clipped(logprobs: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    """GRPO's mean over tokens at the first update; both tensors of one shape."""
    ratio = (logprobs - logprobs.detach()).exp()
    return -torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)


def naive(hidden, weight, targets, advantages):
    logprobs = torch.log_softmax(hidden @ weight.T, -1).gather(-1, targets[..., None])[..., 0]
    clipped(logprobs, advantages[:, None]).mean().backward()


def trl(hidden, weight, targets, advantages):
    from trl.trainer.utils import selective_log_softmax

    clipped(selective_log_softmax(hidden @ weight.T, targets), advantages[:, None]).mean().backward()


def liger(hidden, weight, targets, advantages):
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

    loss = LigerFusedLinearGRPOLoss(beta=0.0, compiled=False, use_ref_model=False, loss_type="dapo")
    loss(hidden, weight, targets, torch.ones_like(targets), advantages)[0].backward()


def ours(hidden, weight, targets, advantages):
    from megatron_eureka.model.logprobs import Head, token_losses

    each = advantages[:, None].expand_as(targets).reshape(-1)

    def loss(part, logprobs, _):
        return clipped(logprobs, each[part]).sum() / len(each)

    flat = hidden.reshape(-1, HIDDEN)
    token_losses(flat, targets.reshape(-1), Head(weight, dist.group.WORLD), loss)[0].backward()


def ours_recomputed(hidden, weight, targets, advantages):
    from megatron_eureka.model.logprobs import Head, vocab_parallel_logprobs

    flat = hidden.reshape(-1, HIDDEN)
    logprobs, _ = vocab_parallel_logprobs(flat, targets.reshape(-1), Head(weight, dist.group.WORLD))
    clipped(logprobs.view_as(targets), advantages[:, None]).mean().backward()


WAYS = {way.__name__: way for way in (naive, trl, liger, ours, ours_recomputed)}


def measure(name: str, num_tokens: int, pipe) -> None:
    """In a process of its own: two rounds, of which the second is timed."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    hidden, weight, targets, advantages = inputs(num_tokens)
    small = [tensor[:, :2] for tensor in (hidden, targets)]
    WAYS[name](small[0], weight[:128], small[1] % 128, advantages)  # imports
    hidden.grad = weight.grad = None
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here, see proc(5)
    before, started = memory("VmRSS"), time.process_time()
    WAYS[name](hidden, weight, targets, advantages)
    seconds = time.process_time() - started
    extra = memory("VmHWM") - before - weight.nbytes - hidden.nbytes
    pipe.send((extra / MIB, seconds, float(weight.grad.norm()), float(hidden.grad.norm())))


def memory(name: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at its peak."""
    (line,) = (line for line in Path("/proc/self/status").read_text("ascii").splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def in_a_process(name: str, num_tokens: int) -> tuple[float, float, float, float]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(name, num_tokens, sender))
    process.start()
    sender.close()
    result = receiver.recv()
    process.join()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    names = [name for name in WAYS if name != "liger" or importlib.util.find_spec("liger_kernel")]
    runs = [{name: in_a_process(name, options.tokens) for name in names} for _ in range(options.repeats)]
    expected = runs[0]["naive"][2:]
    results = {}
    for name in names:
        extra, seconds, *norms = zip(*(run[name] for run in runs), strict=True)
        close = all(
            abs(norm / right - 1) < 1e-4 for values, right in zip(norms, expected, strict=True) for norm in values
        )
        results[name] = {"extra_mib": round(min(extra)), "cpu_s": round(min(seconds), 2), "gradients_equal": close}
    for name, result in results.items():
        result["time_over_naive"] = round(result["cpu_s"] / results["naive"]["cpu_s"], 2)
        figures = f"{result['extra_mib']:6d} MiB  {result['cpu_s']:6.2f} s  {result['time_over_naive']:.2f} x naive"
        print(f"{name:16s} {figures}")
    if "liger" not in names:
        print("liger            left out: liger-kernel is not installed")
    if options.out:
        sizes = {"tokens": options.tokens, "vocabulary": VOCABULARY, "hidden": HIDDEN, "dtype": "float32"}
        record = {"date": str(date.today()), "machine": platform.processor() or platform.machine(), **sizes}
        options.out.write_text(json.dumps(record | {"results": results}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()

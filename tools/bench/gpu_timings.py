"""How fast one GPU trains packed rows of a random model: forward and backward, tokens/s, FLOP/s, peak memory.

    python tools/bench/gpu_timings.py '{"name": "cuda bf16", "device": "cuda", "dtype": "bf16", ...}' 1b OUT.json

The language model alone: no images, the frozen tower lies idle. Weights are random, which costs the same time.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import megatron_eureka  # noqa: E402, F401  (before transformers: on CPU it makes CUDA-linked wheels importable)

# isort: split
import torch  # noqa: E402

from examples.digits.model import make_model  # noqa: E402
from megatron_eureka.data.packing import Item  # noqa: E402
from megatron_eureka.parallel import groups  # noqa: E402
from megatron_eureka.planner.flops import flops_of_rows, peak_flops  # noqa: E402
from megatron_eureka.train import policy as policies  # noqa: E402
from megatron_eureka.train.batch import make_rows  # noqa: E402
from megatron_eureka.train.train_row import TrainRow  # noqa: E402
from megatron_eureka.types import MicroBatch, Prompt  # noqa: E402
from tools.bench.gpu_programs import policy_of, prepare  # noqa: E402
from tools.bench.gpu_variants import Variant  # noqa: E402

SIZES = {  # 1b: 1.1 B parameters with head dim 128, as in the published models
    "1b": dict(hidden=2048, ffn=8192, layers=16, heads=16, kv_heads=4, vocab=32768),
    "tiny": dict(hidden=128, ffn=256, layers=2, heads=4, kv_heads=2, vocab=384),  # to try the program itself
}
ROWS = {  # tokens of the prompt, number and tokens of responses, number of such groups in the row
    "1b": {"a prompt shared by 7 responses": (1024, 7, 1024, 1), "8 sequences": (512, 1, 512, 8)},
    "tiny": {"a prompt shared by 3 responses": (16, 3, 16, 1), "4 sequences": (16, 1, 16, 4)},
}
WARM_UP, REPEATS = 3, 7


def write_config(folder: Path, hidden: int, ffn: int, layers: int, heads: int, kv_heads: int, vocab: int) -> None:
    """A model folder whose config.json has these sizes; its weights are never read."""
    make_model(folder)
    file = folder / "config.json"
    config = json.loads(file.read_text("utf-8"))
    side = 3 * (hidden // heads) // 16
    rope = config["text_config"]["rope_parameters"] | {"mrope_section": [hidden // heads // 2 - 2 * side, side, side]}
    config["text_config"] |= {
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": 32768,
        "rope_parameters": rope,
    }
    config["text_config"].pop("head_dim", None)
    config["text_config"].pop("layer_types", None)  # transformers derives it from the number of layers
    config["vision_config"]["out_hidden_size"] = hidden
    file.write_text(json.dumps(config), encoding="utf-8")


def row_of(policy, prompt: int, responses: int, response: int, copies: int) -> MicroBatch:
    """One packed row of such groups with arbitrary tokens."""

    def ids(count):
        return tuple(10 + number % 200 for number in range(count))

    items = [
        Item(
            Prompt(str(copy), "made up", (), "", ids(prompt), ids(prompt)),
            (ids(response),) * responses,
            tuple(range(copy * responses, (copy + 1) * responses)),
        )
        for copy in range(copies)
    ]
    (row,) = make_rows(items, policy.config.train.max_tokens_per_microbatch, policy)
    return row


def timed(action, on_cuda: bool) -> list[float]:
    """Seconds of each repeat, after warm-up, with the device idle before and after."""
    wait = torch.cuda.synchronize if on_cuda else lambda: None
    seconds = []
    for repeat in range(WARM_UP + REPEATS):
        wait()
        start = time.perf_counter()
        action()
        wait()
        if repeat >= WARM_UP:
            seconds.append(time.perf_counter() - start)
    return seconds


def measure(variant: Variant, size: str) -> list[dict]:
    """One record a row shape, and one for the optimizer step."""
    on_cuda = variant.device == "cuda"
    # The folder holds sizes alone: Megatron's random initialisation stays.
    policies.load_hf = policies.check_hf_keys = lambda *arguments: None
    with tempfile.TemporaryDirectory() as folder:
        write_config(Path(folder), **SIZES[size])
        policy = policy_of(variant, folder, freeze_vision=True, lr=1e-6)
    peak = peak_flops(torch.cuda.get_device_name()) if on_cuda else None
    records = []

    def loss(row, logprobs, entropies):
        total = -logprobs.mean()
        return total, {"loss": total.detach()}

    for shape, numbers in ROWS[size].items():
        row = row_of(policy, *numbers)
        if on_cuda:
            torch.cuda.reset_peak_memory_stats()
        seconds = timed(lambda row=row: policies.accumulate(policy, [TrainRow(row)], loss), on_cuda)
        # A backward pass counts as two forward passes; what the head computes again for it does not count.
        median, work = statistics.median(seconds), 3 * flops_of_rows(policy.info, [row])
        records.append(
            {
                "name": f"forward and backward, {shape}",
                "tokens": row.num_tokens,
                "targets": len(row.targets),
                "seconds": seconds,
                "median_s": median,
                "tokens_per_s": row.num_tokens / median,
                "tflops": work / median / 1e12,
                "mfu": work / median / peak if peak else None,
                "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30 if on_cuda else None,
            }
        )
    seconds = timed(lambda: policies.step(policy, 0, 1), on_cuda)
    records.append({"name": "optimizer step", "seconds": seconds, "median_s": statistics.median(seconds)})
    return records


def main() -> None:
    variant = Variant(**json.loads(sys.argv[1]))
    prepare(variant)
    records = measure(variant, sys.argv[2])
    groups.stop()
    Path(sys.argv[3]).write_text(json.dumps(records), encoding="utf-8")


if __name__ == "__main__":
    main()

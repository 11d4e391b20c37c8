"""Load and save a Hugging Face folder once with mbridge 0.15.1, on CPU, and print how long each took as a line of JSON.

    python3 -m venv mbridge
    mbridge/bin/pip install torch==2.13.0 mbridge==0.15.1 megatron-core==0.16.1 'transformers<5'
    mbridge/bin/pip install safetensors psutil einops
    mbridge/bin/python tools/bench/convert_mbridge.py HF_FOLDER OUTPUT_FOLDER

It needs a venv of its own because mbridge wants transformers 4, and imports nothing of this repository. torch has to be
a CPU build: where pip offers none, add PyTorch's CPU wheel index as an extra index.

mbridge's own `load_weights` and `save_weights` run unchanged, on one rank. The model they fill is a stub: bare
parameters under the names and shapes of Megatron's Transformer Engine layers, which do not exist on CPU. Its memory is
filled with NaN before the clock starts, so page faults do not count against mbridge and a parameter that was never
loaded shows.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from mbridge import AutoBridge
from megatron.core import parallel_state
from safetensors import safe_open
from torch import nn

INDEX = "model.safetensors.index.json"


def hf_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Of every tensor of a folder with an index."""
    shapes = {}
    for name in set(json.loads((folder / INDEX).read_text("utf-8"))["weight_map"].values()):
        with safe_open(folder / name, "pt") as file:
            shapes |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    return shapes


def parameter_shapes(bridge, folder: Path) -> dict[str, tuple[int, ...]]:
    """Of mbridge's Megatron parameters: several Hugging Face tensors lie one below the other in a fused one."""
    shapes, config = hf_shapes(folder), bridge.hf_config
    sources = {name: [source] for name, source in bridge._DIRECT_MAPPING.items()}
    if config.tie_word_embeddings:
        del sources["language_model.output_layer.weight"]  # as Megatron's one stage has it: the embedding is the head
    for name, names in (bridge._ATTENTION_MAPPING | bridge._MLP_MAPPING).items():
        num_layers = config.vision_config.depth if name.startswith("vision") else config.num_hidden_layers
        for layer in range(num_layers):
            sources[name.format(layer_number=layer)] = [source.format(layer_number=layer) for source in names]
    # The map also names biases that this architecture does not have.
    present = {name: names for name, names in sources.items() if all(source in shapes for source in names)}
    left = shapes.keys() - {source for names in present.values() for source in names}
    assert not left, f"mbridge's map leaves these tensors out: {sorted(left)[:5]}"
    return {
        name: (sum(shapes[source][0] for source in names), *shapes[names[0]][1:]) for name, names in present.items()
    }


def stub_model(bridge, folder: Path) -> nn.Module:
    """Modules that hold nothing but parameters; language layers carry the number that mbridge asks for."""
    root = nn.Module()
    for name, shape in parameter_shapes(bridge, folder).items():
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.ModuleList() if part == "layers" else nn.Module())
            module = module._modules[part]
        parameter = torch.full(shape, torch.nan, dtype=torch.bfloat16)
        module.register_parameter(last, nn.Parameter(parameter, requires_grad=False))
    for number, layer in enumerate(root.language_model.decoder.layers, start=1):
        layer.layer_number = number
    root.config = bridge.config
    return root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("hf", type=Path, help="folder of safetensors shards with an index")
    parser.add_argument("out", type=Path, help="folder to write")
    options = parser.parse_args()
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel(1, 1)
    bridge = AutoBridge.from_pretrained(str(options.hf))
    model = stub_model(bridge, options.hf)
    start, cpu_start = time.perf_counter(), time.process_time()
    bridge.load_weights([model], str(options.hf))
    loaded = time.perf_counter()
    bridge.save_weights([model], str(options.out))
    saved, cpu_end = time.perf_counter(), time.process_time()
    untouched = [name for name, parameter in model.named_parameters() if parameter.flatten()[-1].isnan()]
    assert not untouched, f"mbridge did not load {untouched[:5]}"
    times = {"load_s": loaded - start, "save_s": saved - loaded, "cpu_s": cpu_end - cpu_start}
    print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main()

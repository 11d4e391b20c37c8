"""Load an exported folder in vLLM as any user of vLLM would, generate greedily, and print tokens and log-probs as JSON.

python -m tests.train.stock_vllm FOLDER PROMPTS.json
"""

import json
import os
import sys

os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    TORCH_COMPILE_DISABLE="1",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    HF_HUB_OFFLINE="1",
)

from PIL import Image  # noqa: E402
from vllm import LLM, SamplingParams  # noqa: E402

if __name__ == "__main__":
    folder, file = sys.argv[1:]
    with open(file, encoding="utf-8") as handle:
        prompts = json.load(handle)
    llm = LLM(
        model=folder,
        dtype="float32",
        enforce_eager=True,
        max_model_len=128,
        kv_cache_memory_bytes=32 << 20,
        limit_mm_per_prompt={"image": 1, "video": 0},
    )
    requests = [
        {"prompt": p["text"], **({"multi_modal_data": {"image": Image.open(p["image"])}} if p["image"] else {})}
        for p in prompts
    ]
    outputs = llm.generate(requests, SamplingParams(temperature=0.0, max_tokens=8, logprobs=0), use_tqdm=False)
    result = [
        {
            "prompt_ids": list(output.prompt_token_ids),
            "ids": list(output.outputs[0].token_ids),
            "logprobs": [step[t].logprob for t, step in zip(output.outputs[0].token_ids, output.outputs[0].logprobs)],  # noqa: B905
        }
        for output in outputs
    ]
    sys.stdout.write("RESULT " + json.dumps(result) + "\n")

#!/usr/bin/env bash
# GRPO of Qwen2.5-VL-7B on one machine with 8 GPUs of 80 GB. Not yet run on a GPU.
#
#   MODEL=/models/Qwen2.5-VL-7B-Instruct DATA=/data/mmk12/train.jsonl bash examples/qwen2_5_vl_7b/single_node.sh
#
# Further arguments are options, such as train.steps=10 logging.name=try. A run that was cut off goes on when the same
# command is given again. GPUS: number of GPUs, default 8. PYTHON: default .venv/bin/python where there is one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

: "${MODEL:?set it to the Hugging Face folder or the Megatron checkpoint of the starting model}"
: "${DATA:?set it to a JSONL file of training prompts}"
GPUS=${GPUS:-8}
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
run=(train configs/qwen2_5_vl_7b_1node.yaml "model.path=$MODEL" "data.train=[$DATA]" "launch.ranks=$GPUS" "$@")

# Refuses what cannot work before a GPU is touched; the printed plan stays in the log.
"$PYTHON" -m megatron_eureka "${run[@]}" --dry-run

export CUDA_DEVICE_MAX_CONNECTIONS=1 # Megatron-Core's overlap of communication and computation asks for it
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}
exec "$PYTHON" -m torch.distributed.run --standalone --nproc-per-node "$GPUS" -m megatron_eureka "${run[@]}"

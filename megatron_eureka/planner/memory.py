"""A simple estimate of GPU memory, for plans and --dry-run. Arithmetic on sizes; nothing is measured.

Megatron-Core's way of keeping state: weights in the training dtype, one fp32 gradient buffer a rank for what is
trained, and Adam's state (plus fp32 master weights when training in bf16) cut over data-parallel ranks. Activations
count the tensors that the backward pass of a decoder layer needs, with flash attention; they are rough (+-30 %), and
what the allocator, NCCL and CUDA add (some GB) is not in them.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron_eureka.config.model_info import ModelInfo
from megatron_eureka.config.schema import Config, Parallel
from megatron_eureka.planner.parameters import stage_parameters, total_parameters, vision_parameters

GIB = 1 << 30
ELEMENT_BYTES = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the fullest GPU."""

    weights: int  # trainer's parameters, the vision tower included
    gradients: int  # fp32
    optimizer: int  # Adam's two moments, and master weights in bf16
    activations: int  # kept for the backward pass, one pipeline's worth of micro-batches
    logits: int  # one chunk of log-probs, forward and backward
    engine_weights: int  # vLLM's own copy; released while it sleeps

    @property
    def training(self) -> int:
        """Bytes while the engine sleeps."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


def activation_bytes_per_layer(
    info: ModelInfo, num_tokens: int, element_bytes: int, *, tp: int, sequence_parallel: bool, recompute: bool
) -> int:
    """Bytes that one rank keeps of one decoder layer for a packed row.

    Kept without recompute, elements a token: the input, both norms' outputs, the residual after attention (4 H); q, k,
    v and attention's output; gate, up and their product (3 F). With recompute: the input alone.

    Args:
        num_tokens: of the row.
        tp: tensor-parallel size, which cuts what lies inside attention and MLP; with `sequence_parallel` all of it.
    """
    residual = (1 if recompute else 4) * info.hidden_size / (tp if sequence_parallel else 1)
    inner = 0 if recompute else (2 * info.num_heads + 2 * info.num_kv_heads) * info.head_dim + 3 * info.ffn_size
    return int(num_tokens * element_bytes * (residual + inner / tp))


def activation_bytes(axes: Parallel, max_tokens: int, element_bytes: int, info: ModelInfo) -> int:
    """Bytes of activations that the fullest stage keeps for its micro-batches under way."""

    def of_layer(recompute: bool) -> int:
        return activation_bytes_per_layer(
            info, max_tokens, element_bytes, tp=axes.tp, sequence_parallel=axes.sequence_parallel, recompute=recompute
        )

    # 1F1B: the first stage holds pp micro-batches; interleaving adds (pp - 1) / (pp * vpp) of that (Narayanan 2021).
    in_flight = axes.pp if axes.vpp == 1 else axes.pp * (1 + (axes.pp - 1) / (axes.pp * axes.vpp))
    recompute = axes.recompute == "full"
    kept = int(info.num_layers // axes.pp * of_layer(recompute) * in_flight)
    return kept + of_layer(False) if recompute else kept  # the layer that is recomputed has all tensors for a moment


def estimate_memory(config: Config, info: ModelInfo, world_size: int) -> MemoryEstimate:
    """Memory of the fullest GPU of a run whose options passed `check`."""
    axes = config.parallel
    replicas = world_size // (axes.tp * axes.pp)  # the optimizer's state is cut over dp and cp together
    size = ELEMENT_BYTES[config.precision.dtype]
    state = 8 if config.precision.dtype == "fp32" else 12

    def held(stage: int) -> tuple[int, int, int]:
        language, vision = stage_parameters(info, axes.tp, axes.pp, stage)
        trained = language + (0 if config.model.freeze_vision else vision)
        return size * (language + vision), 4 * trained, state * trained // replicas

    weights, gradients, optimizer = max((held(stage) for stage in range(axes.pp)), key=sum)
    # fp32 logits of a chunk and their exponentials, of which the gradient is made, and either of them in bf16
    logits = 5 * config.train.logprob_chunk_bytes(on_cuda=True) // 2
    vision = vision_parameters(info)
    engine = size * (vision + (total_parameters(info) - vision) // config.rollout.tp)
    activations = activation_bytes(axes, config.train.max_tokens_per_microbatch, size, info)
    return MemoryEstimate(weights, gradients, optimizer, activations, logits, engine)


def kv_bytes_per_token(info: ModelInfo, tp: int, element_bytes: int) -> int:
    """Bytes of a token in one engine rank's KV cache; fewer heads than ranks are copied."""
    return 2 * info.num_layers * max(1, info.num_kv_heads // tp) * info.head_dim * element_bytes

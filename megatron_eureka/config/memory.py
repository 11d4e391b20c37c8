"""A simple estimate of GPU memory, for plans and --dry-run. Arithmetic on sizes; nothing is measured.

Megatron-Core's way of keeping state: weights in the training dtype, one fp32 gradient buffer a rank for what is
trained, and Adam's state (plus fp32 master weights when training in bf16) cut over data-parallel ranks. Activations
count the tensors that the backward pass of a decoder layer needs, with flash attention; they are rough (+-30 %), and
what the allocator, NCCL and CUDA add (some GB) is not in them.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron_eureka.config.model_info import ModelInfo
from megatron_eureka.config.schema import Config

GIB = 1 << 30


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


def layer_parameters(info: ModelInfo) -> int:
    """Parameters of one decoder layer."""
    queries, keys = info.num_heads * info.head_dim, info.num_kv_heads * info.head_dim
    attention = info.hidden_size * (queries + 2 * keys) + queries + 2 * keys + queries * info.hidden_size
    return attention + 3 * info.hidden_size * info.ffn_size + 2 * info.hidden_size


def vision_parameters(info: ModelInfo) -> int:
    """Parameters of the vision tower and its merger."""
    vision = info.vision
    hidden, ffn = vision.hidden_size, vision.ffn_size
    patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2 * hidden
    block = 4 * hidden * hidden + 4 * hidden + 3 * hidden * ffn + 2 * ffn + hidden + 2 * hidden
    merged = hidden * vision.spatial_merge_size**2
    merger = hidden + merged * merged + merged + merged * vision.out_hidden_size + vision.out_hidden_size
    return patch + vision.depth * block + merger


def total_parameters(info: ModelInfo) -> int:
    """Parameters of the whole model; a tied head counts once."""
    embedding = info.vocab_size * info.hidden_size
    head = 0 if info.tied else embedding
    return vision_parameters(info) + embedding + info.num_layers * layer_parameters(info) + info.hidden_size + head


def stage_parameters(info: ModelInfo, tp: int, pp: int, stage: int) -> tuple[int, int]:
    """Parameters of one rank in a pipeline stage: (language model, vision tower).

    Norms are not cut over tp in truth; they are 1 in 10,000 of a layer and count as if they were. The tower lies whole
    on every rank of the first stage. The last stage of a tied model keeps a copy of the embedding.
    """
    embedding = info.vocab_size * info.hidden_size
    count = info.num_layers // pp * layer_parameters(info)
    if stage == 0:
        count += embedding
    if stage == pp - 1:
        count += info.hidden_size + (0 if info.tied and pp == 1 else embedding)
    return count // tp, vision_parameters(info) if stage == 0 else 0


def activation_bytes_per_layer(config: Config, info: ModelInfo) -> int:
    """Bytes that one decoder layer keeps of one full row of tokens.

    Kept without recompute, elements a token: the input, both norms' outputs, the residual after attention (4 H); q, k,
    v and attention's output; gate, up and their product (3 F). With recompute: the input alone.
    """
    tp = config.parallel.tp
    residual_ranks = tp if config.parallel.sequence_parallel else 1
    size = _dtype_bytes(config)
    hidden = (1 if config.parallel.recompute == "full" else 4) * info.hidden_size / residual_ranks
    inner = (2 * info.num_heads + 2 * info.num_kv_heads) * info.head_dim + 3 * info.ffn_size
    if config.parallel.recompute == "full":
        inner = 0
    return int(config.train.max_tokens_per_microbatch * size * (hidden + inner / tp))


def estimate_memory(config: Config, info: ModelInfo, world_size: int) -> MemoryEstimate:
    """Memory of the fullest GPU of a run whose options passed `check`."""
    axes = config.parallel
    replicas = world_size // (axes.tp * axes.pp)  # the optimizer's state is cut over dp and cp together
    size = _dtype_bytes(config)
    state = 8 if config.precision.dtype == "fp32" else 12

    def held(stage: int) -> tuple[int, int, int]:
        language, vision = stage_parameters(info, axes.tp, axes.pp, stage)
        trained = language + (0 if config.model.freeze_vision else vision)
        return size * (language + vision), 4 * trained, state * trained // replicas

    weights, gradients, optimizer = max((held(stage) for stage in range(axes.pp)), key=sum)
    layers = info.num_layers // axes.pp
    per_layer = activation_bytes_per_layer(config, info)
    # 1F1B: the first stage holds pp micro-batches; interleaving adds (pp - 1) / (pp * vpp) of that (Narayanan 2021).
    in_flight = axes.pp if axes.vpp == 1 else axes.pp * (1 + (axes.pp - 1) / (axes.pp * axes.vpp))
    activations = int(layers * per_layer * in_flight)
    if axes.recompute == "full":  # the layer that is being recomputed has all its tensors for a moment
        whole = config.model_copy(update={"parallel": axes.model_copy(update={"recompute": "none"})})
        activations += activation_bytes_per_layer(whole, info)
    # fp32 logits of a chunk and their exponentials, of which the gradient is made, and either of them in bf16
    logits = 5 * config.train.logprob_chunk_bytes(on_cuda=True) // 2
    vision = vision_parameters(info)
    engine = size * (vision + (total_parameters(info) - vision) // config.rollout.tp)
    return MemoryEstimate(weights, gradients, optimizer, activations, logits, engine)


def _dtype_bytes(config: Config) -> int:
    return {"fp32": 4, "bf16": 2}[config.precision.dtype]

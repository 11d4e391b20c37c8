"""Every option of a run, typed, with its one default and a one-line explanation.

The sections mirror the YAML files in `configs/`. Unknown keys are refused (`extra="forbid"`); `load.py` turns
pydantic's complaint into one that names the nearest option. Checks that need two options are in `checks.py`.
"""

from typing import Literal

from pydantic import Field

from megatron_eureka.config.algorithm import Algorithm
from megatron_eureka.config.bounds import (
    MAX_COUNT,
    CollectiveSeconds,
    Decay,
    Fraction,
    Mib,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Processes,
    Seconds,
    Sequences,
    Share,
    Temperature,
)
from megatron_eureka.config.section import Section


class Model(Section):
    path: str = Field("", description="Hugging Face folder or Megatron checkpoint of the starting model.")
    spec: Literal["auto", "local", "te"] = Field(
        "auto", description="Layer spec: Transformer Engine's where it is installed and CUDA is there, else local."
    )
    freeze_vision: bool = Field(True, description="Keep the vision tower and its merger fixed.")


class Parallel(Section):
    tp: PositiveInt = Field(1, description="Tensor-parallel size; inside a node.")
    pp: PositiveInt = Field(1, description="Pipeline-parallel size.")
    vpp: PositiveInt = Field(1, description="Virtual pipeline stages a rank (interleaved schedule).")
    cp: PositiveInt = Field(1, description="Context-parallel size.")
    sp: bool | None = Field(None, description="Sequence parallelism; by default on whenever tp > 1.")
    recompute: Literal["none", "full"] = Field("none", description="Activation recompute of the decoder layers.")

    @property
    def sequence_parallel(self) -> bool:
        return self.tp > 1 if self.sp is None else self.sp


class Precision(Section):
    dtype: Literal["fp32", "bf16"] = Field("bf16", description="Type of parameters and activations in training.")


class Data(Section):
    train: list[str] = Field([], description="JSONL files of training prompts (id, message, answer).")
    image_root: str = Field("", description="Folder that relative image paths start from; default: the JSONL's folder.")
    system_prompt: str = Field("", description="System turn put before the data set's own turns; empty: none.")
    min_pixels: PositiveInt = Field(4 * 28 * 28, description="Smallest image area after resizing, pixels.")
    max_pixels: PositiveInt = Field(640 * 28 * 28, description="Largest image area after resizing, pixels.")
    max_prompt_tokens: PositiveInt = Field(3000, description="Longest expanded prompt, tokens.")
    overlong: Literal["drop", "error"] = Field("drop", description="What happens to longer prompts; both are counted.")
    on_error: Literal["skip", "error"] = Field("error", description="What a bad line, image or label does to the run.")
    verify_images: bool = Field(False, description="Decode every image when the data is loaded, not at its first use.")
    shuffle: bool = Field(True, description="Shuffle the prompts anew in every epoch, from train.seed.")
    image_cache_mib: Mib = Field(1024, description="Memory for resized images a rank, MiB.")


class Rollout(Section):
    engine: Literal["colocated"] = Field("colocated", description="vLLM inside the trainer processes.")
    tp: PositiveInt = Field(1, description="Tensor-parallel size of an engine, over consecutive ranks.")
    prompts_per_step: PositiveInt = Field(128, description="Groups that a training step uses.")
    samples_per_prompt: PositiveInt = Field(8, description="Responses sampled for each prompt (G).")
    temperature: Temperature = Field(1.0, description="Sampling temperature; log-probs are taken at it too.")
    top_p: Share = Field(1.0, description="Nucleus sampling; 1 is off.")
    top_k: int = Field(-1, ge=-1, le=MAX_COUNT, description="Top-k sampling; -1 is off.")
    max_response_tokens: PositiveInt = Field(4096, description="Longest response, tokens.")
    stop: list[str] = Field([], description="Strings that end a response, besides the model's end token.")
    max_num_seqs: Sequences = Field(256, description="Sequences an engine decodes at once; each takes memory.")
    gpu_memory_utilization: Share = Field(0.3, description="Share of GPU memory for the engine (CUDA only).")
    kv_cache_mib: Mib = Field(64, description="KV cache of an engine on CPU, MiB.")
    sync_bucket_mib: Mib = Field(512, description="Size of a weight-sync bucket, MiB; larger tensors are split.")

    @property
    def samples_whole_vocabulary(self) -> bool:
        """Whether every token may be drawn: only then an engine's log-probs are those of the policy."""
        return self.top_p == 1.0 and self.top_k <= 0


class Overlong(Section):
    penalty: NonNegativeFloat = Field(
        0.0, description="Subtracted from a response of rollout.max_response_tokens (DAPO's soft punishment); 0: off."
    )
    buffer_tokens: int | None = Field(
        None, gt=0, description="Last tokens before that limit, over which the penalty grows; by default a quarter."
    )

    def buffer(self, max_tokens: int) -> int:
        """The buffer for a limit of so many tokens."""
        return self.buffer_tokens or max(1, max_tokens // 4)


class Repetition(Section):
    penalty: NonNegativeFloat = Field(
        0.0, description="Subtracted, times the share of n-grams that were there before; 0: off."
    )
    ngram: PositiveInt = Field(3, description="Words of an n-gram.")


class Reward(Section):
    accuracy_weight: NonNegativeFloat = Field(1.0, description="Weight of the accuracy reward (0 or 1).")
    format_weight: NonNegativeFloat = Field(0.5, description="Weight of the format reward (0 or 1).")
    format_anchored: bool = Field(False, description="Refuse text before <think> and after </answer>.")
    compat: Literal["none", "mm_eureka"] = Field("none", description="Reproduce another system's scoring, errors too.")
    timeout_s: Seconds = Field(5.0, description="Time limit of one verification, seconds; a time-out scores 0.")
    workers: Processes = Field(2, description="Verifier processes a node.")
    functions: list[str] = Field([], description="User rewards, `path/to/file.py:name`, added to the total.")
    function_timeout_s: Seconds = Field(
        60.0, description="Time limit of one call of a user reward (the responses to one prompt), seconds."
    )
    services: list[str] = Field([], description="HTTP reward services, `http://...`, added to the total.")
    service_timeout_s: Seconds = Field(
        60.0, description="Time limit of one request to a service (the responses to one prompt), seconds."
    )
    service_concurrency: Processes = Field(8, description="Requests to a service at a time, by each engine.")
    service_retries: NonNegativeInt = Field(3, description="Further requests, with growing pauses, after a failed one.")
    on_failure: Literal["stop", "continue"] = Field(
        "stop", description="When a reward fails on every sample of a step: stop the run, or go on with 0 for it."
    )
    shuffle: bool = Field(False, description="Control experiment: permute the rewards over the whole batch.")
    overlong: Overlong = Overlong()
    repetition: Repetition = Repetition()


class Train(Section):
    steps: PositiveInt = Field(100, description="Steps of the run: rollout and updates (GRPO) or updates (SFT).")
    seed: NonNegativeInt = Field(0, description="Seed of sampling, shuffling and initial state.")
    samples_per_update: PositiveInt = Field(128, description="Samples of one optimizer step, over all ranks.")
    max_tokens_per_microbatch: PositiveInt = Field(8192, description="Token budget of one packed row.")
    logprob_chunk_mib: int | None = Field(
        None,
        gt=0,
        description="Float32 logits of a chunk of targets, MiB; 2.5 times as much exists at once. By default 512 on "
        "CUDA, 64 on a CPU.",
    )
    deterministic: bool = Field(
        False, description="Deterministic CUDA algorithms where torch has them; slower. On CPU they are anyway."
    )

    def logprob_chunk_bytes(self, on_cuda: bool) -> int:
        """Larger ones keep a GPU busy: each chunk reads the whole head, and reads and writes its gradient."""
        return (self.logprob_chunk_mib or (512 if on_cuda else 64)) << 20


class Optimizer(Section):
    lr: Share = Field(1e-6, description="Peak learning rate: about what Adam moves each weight by in an update.")
    beta1: Decay = Field(0.9, description="Adam's first decay.")
    beta2: Decay = Field(0.95, description="Adam's second decay.")
    eps: Share = Field(1e-8, description="Adam's epsilon.")
    weight_decay: NonNegativeFloat = Field(0.0, description="Decoupled weight decay (not on norms and biases).")
    clip_grad: NonNegativeFloat = Field(1.0, description="Global gradient-norm clip; 0 is off.")
    schedule: Literal["constant", "linear", "cosine"] = Field("cosine", description="Decay after the warm-up.")
    warmup_fraction: Fraction = Field(0.03, description="Share of all updates that warm up linearly.")
    min_lr_ratio: Fraction = Field(0.1, description="Final learning rate over the peak.")


class Checkpoint(Section):
    every: NonNegativeInt = Field(50, description="Steps between checkpoints; 0: only at the end.")
    keep: PositiveInt = Field(2, description="Newest checkpoints that stay on disk.")
    export: bool = Field(True, description="Write a Hugging Face folder to export/ at the end.")


# Asks for what extraction and the format reward look for.
ANSWER_PROMPT = (
    "Think about the question step by step first, then give the final answer. Put the thinking between <think> and "
    "</think> and the answer between <answer> and </answer>, mathematics in LaTeX between $ signs: "
    "<think> ... </think><answer> ... </answer>"
)


class Evaluation(Section):
    data: list[str] = Field([], description="JSONL files of held-out prompts.")
    benchmarks: list[str] = Field([], description="Benchmarks as `NAME=PATH`, see docs/evaluation.md.")
    every: NonNegativeInt = Field(
        0, description="Steps between evaluations; 0: only before the first and after the last."
    )
    max_prompts: NonNegativeInt = Field(0, description="Prompts used, of each benchmark too; 0: all.")
    enabled: bool = Field(True, description="Evaluate at all; needs evaluation.data or evaluation.benchmarks.")
    samples: PositiveInt = Field(1, description="Responses to each item of a benchmark; several need a temperature.")
    temperature: float | None = Field(
        None, ge=0.0, le=10.0, description="Sampling temperature for benchmarks; unset: 0 with one sample."
    )
    pass_k: list[int] = Field([], description="The k of pass@k; empty: 1 and evaluation.samples.")
    prompt: Literal["think", "plain", "official"] = Field(
        "think", description="Benchmark prompts: with the system prompt, without one, or the benchmark's own words."
    )
    system_prompt: str = Field(ANSWER_PROMPT, description="System turn of benchmark prompts in the style `think`.")
    chunk_prompts: PositiveInt = Field(256, description="Items answered between two writes: what a kill can cost.")
    judge_url: str = Field("", description="OpenAI-compatible endpoint of a judge, such as .../v1; empty: off.")
    judge_model: str = Field("", description="Model that the judge's endpoint is asked for.")
    judge_key_env: str = Field("", description="Environment variable with the judge's key; empty: none is sent.")
    judge_workers: Processes = Field(8, description="Questions that the judge is asked at once.")
    judge_max_tokens: PositiveInt = Field(4096, description="Longest answer of the judge, its thoughts included.")
    judge_timeout_s: Seconds = Field(300.0, description="Time limit of one answer of the judge, seconds.")
    judge_retries: NonNegativeInt = Field(4, description="Further tries after a failure of the judge, with back-off.")


class Logging(Section):
    root: str = Field("runs", description="Folder of run folders.")
    name: str = Field("", description="Name of the run folder; default: the config file's name.")
    resume: Literal["auto", "never"] = Field("auto", description="Continue a run folder that was cut off.")
    overwrite: bool = Field(False, description="Replace a finished run folder of the same name.")
    tensorboard: bool = Field(True, description="Write TensorBoard events.")
    wandb_project: str = Field("", description="Weights & Biases project; empty: off.")


class Launch(Section):
    ranks: Processes = Field(1, description="Trainer ranks on this node when started without torchrun or srun.")
    nodes: PositiveInt = Field(1, description="Nodes of the job.")
    timeout_s: CollectiveSeconds = Field(
        1800, description="Limit of one collective, seconds; in one, rank 0 reads the data."
    )


class Config(Section):
    """A run. Sections by topic; see each for its options."""

    model: Model = Model()
    parallel: Parallel = Parallel()
    precision: Precision = Precision()
    data: Data = Data()
    rollout: Rollout = Rollout()
    reward: Reward = Reward()
    algorithm: Algorithm = Algorithm()
    train: Train = Train()
    optimizer: Optimizer = Optimizer()
    checkpoint: Checkpoint = Checkpoint()
    evaluation: Evaluation = Evaluation()
    logging: Logging = Logging()
    launch: Launch = Launch()

"""The one table of metrics. What has no line here cannot be written; docs/metrics.md is made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """A number of a step, or a family of them."""

    name: str  # `<component>` stands for any name
    unit: str
    meaning: str
    over_ranks: Literal["sum", "token mean", "sample mean", "max", "quotient", "same", "rank 0"]  # see RANKS
    over_updates: Literal["", "mean", "max", "first"] = ""  # of the step's updates; "": of the step as a whole


# The first four are what collectives go by (`megatron_eureka/train/sums.py`).
RANKS = {
    "sum": "the sum over all ranks",
    "token mean": "the sum over the tokens of all ranks, divided by their number",
    "sample mean": "the sum over the responses of all ranks, divided by their number",
    "max": "the largest of all ranks",
    "quotient": "made of several sums over all ranks",
    "same": "every rank computes the same, from data that all of them have",
    "rank 0": "what rank 0 measures",
}

METRICS = (
    Metric("actor/loss", "1", "loss of the update: policy loss, entropy bonus and KL term", "sum", "mean"),
    Metric("actor/pg_loss", "1", "policy loss alone", "sum", "mean"),
    Metric("actor/pg_clipfrac", "share", "trained tokens whose loss the clip decided", "token mean", "mean"),
    Metric("actor/pg_clipfrac_lower", "share", "trained tokens whose loss the dual clip decided", "token mean", "mean"),
    Metric("actor/ppo_kl", "nats", "mean of old less new log-prob of the trained tokens", "token mean", "mean"),
    Metric("actor/entropy", "nats", "mean entropy of the distribution at the trained tokens", "token mean", "mean"),
    Metric("actor/kl_loss", "nats", "mean KL estimate against the reference, where there is one", "token mean", "mean"),
    Metric("actor/log_ratio_max", "nats", "largest difference of new and old log-prob of a token", "max", "max"),
    Metric("actor/log_ratio_max/first", "nats", "the same; 0 if old log-probs are this policy's", "max", "first"),
    Metric("actor/grad_norm", "1", "norm of the whole gradient before it is clipped", "same", "mean"),
    Metric("actor/lr", "1", "learning rate", "same", "mean"),
    Metric("rollout_corr/kl", "nats", "mean of engine less trainer over tokens that the engine drew", "token mean"),
    Metric("rollout_corr/k3_kl", "nats", "non-negative estimator of the same", "token mean"),
    Metric("rollout_corr/chi2_token", "1", "mean squared ratio trainer / engine of tokens, less one", "quotient"),
    Metric("rollout_corr/chi2_seq", "1", "mean squared ratio trainer / engine of responses, less one", "quotient"),
    Metric("rollout_corr/ess", "share", "effective samples under the tokens' ratios", "quotient"),
    Metric(
        "rollout_corr/logprob_diff_mean",
        "nats",
        "mean absolute difference of log-probs; at a run's first step (and the first after a resume) more than "
        "rounding explains, 0.001 in fp32 and 0.05 in bf16, ends the run (`algorithm.correction.on_mismatch`)",
        "token mean",
    ),
    Metric(
        "rollout_corr/probs_diff_mean",
        "1",
        "mean absolute difference of probabilities; below 0.005 is sound",
        "token mean",
    ),
    Metric("rollout_corr/probs_diff_max", "1", "largest absolute difference of probabilities", "max"),
    Metric(
        "rollout_corr/alarm", "0 or 1", "1: the mean exceeds `algorithm.correction.alarm`; a warning says so", "same"
    ),
    Metric("rollout_corr/training_log_ppl", "nats", "negative mean log-prob of a response, trainer's", "sample mean"),
    Metric("rollout_corr/rollout_log_ppl", "nats", "negative mean log-prob of a response, engine's", "sample mean"),
    Metric("rollout_corr/log_ppl_abs_diff", "nats", "mean absolute difference of the two", "sample mean"),
    Metric("rollout_corr/is_mean", "1", "mean importance weight in use", "token mean"),
    Metric("rollout_corr/is_max", "1", "largest importance weight in use", "max"),
    Metric("rollout_corr/is_truncated", "share", "tokens with a weight at the cap", "token mean"),
    Metric("rollout_corr/rejected_tokens", "share", "tokens left out", "token mean"),
    Metric("rollout_corr/rejected_samples", "share", "responses of which nothing is left", "sample mean"),
    Metric("reward/<component>/mean", "1", "mean over all responses generated; `total` is the weighted sum", "same"),
    Metric("reward/group_std/mean", "1", "mean over groups of the standard deviation of their totals", "same"),
    Metric("reward/kl_penalty/mean", "1", "mean KL penalty of a response, with `algorithm.kl.place: reward`", "same"),
    Metric("reward/failed/<source>", "share", "responses on which a function or service failed and gave 0", "same"),
    Metric("reward/timeouts", "responses", "verifications that took too long and gave 0", "sum"),
    Metric("reward/errors", "responses", "verifications that failed otherwise and gave 0", "sum"),
    Metric("advantage/mean", "1", "mean over the step's samples", "same"),
    Metric("advantage/std", "1", "standard deviation over the step's samples", "same"),
    Metric("advantage/zero_fraction", "share", "samples whose advantage is 0", "same"),
    Metric("advantage/adora/weighted_down", "share", "groups that ADORA weighs down", "same"),
    Metric("response_length/mean", "tokens", "of all responses generated", "same"),
    Metric("response_length/max", "tokens", "of the longest", "same"),
    Metric("response_length/clip_ratio", "share", "responses that were cut off", "same"),
    Metric("prompt_length/mean", "tokens", "over groups, placeholders of images included", "same"),
    Metric("filter/kept", "groups", "that passed the filter", "same"),
    Metric("filter/dropped_easy", "groups", "with a mean accuracy above `algorithm.filter.upper`", "same"),
    Metric("filter/dropped_hard", "groups", "with a mean accuracy below `algorithm.filter.lower`", "same"),
    Metric(
        "filter/stale", "groups", "that waited longer than `algorithm.filter.max_staleness` and were dropped", "same"
    ),
    Metric("filter/buffer", "groups", "that passed and wait for the next step", "same"),
    Metric("filter/staleness/mean", "versions", "mean age of the policies that drew the groups trained on", "same"),
    Metric("filter/staleness/max", "versions", "largest such age", "same"),
    Metric("rollout/prompts", "prompts", "drawn in the step, over all rounds", "same"),
    Metric("rollout/refused", "prompts", "that the engine refused", "same"),
    Metric("rollout/rounds", "rounds", "of generation until the batch was full", "same"),
    Metric("rollout/policy_version", "updates", "of weights that the engines have received", "same"),
    Metric("vision/tower_passes", "images", "that went through the frozen tower in the step", "sum"),
    Metric("vision/distinct_images", "images", "distinct ones of each replica's rows", "sum"),
    Metric(
        "perf/tokens_per_s", "tokens/s", "prompts, once a group, and responses over the whole step's time", "rank 0"
    ),
    Metric("perf/samples_per_s", "samples/s", "demonstrations over the step's time (SFT)", "rank 0"),
    Metric(
        "perf/tflops_per_gpu", "TFLOP/s", "of the old-log-prob and update passes, matrix products alone", "quotient"
    ),
    Metric("perf/mfu", "share", "of the GPU's dense BF16 peak, where that is known", "quotient"),
    Metric("perf/memory_peak_gib", "GiB", "largest memory so far: CUDA's allocator, or the process on a CPU", "rank 0"),
    Metric("perf/images_decoded", "images", "opened and resized in the step, not found in the store", "sum"),
    Metric("timing_s/step", "s", "the step, without evaluation and checkpoint", "rank 0"),
    Metric("timing_s/rollout", "s", "generation", "rank 0"),
    Metric("timing_s/reward", "s", "waiting for rewards after generation", "rank 0"),
    Metric("timing_s/pack", "s", "packing rows, encoding images", "rank 0"),
    Metric("timing_s/old_logprob", "s", "log-probs under the policy that the step starts from", "rank 0"),
    Metric("timing_s/ref_logprob", "s", "log-probs under the reference", "rank 0"),
    Metric("timing_s/update", "s", "forward, backward and optimizer", "rank 0"),
    Metric("timing_s/sync", "s", "weights to the engines", "rank 0"),
    Metric("timing_s/checkpoint", "s", "the checkpoint written since the line before", "rank 0"),
    Metric("timing_s/evaluation", "s", "answering the held-out prompts", "rank 0"),
    Metric("timing_s/benchmarks", "s", "asking and scoring the benchmarks", "rank 0"),
    Metric("evaluation/accuracy", "share", "held-out prompts answered rightly, greedily", "same"),
    Metric("evaluation/format", "share", "held-out prompts answered in the format", "same"),
    Metric("evaluation/refused", "prompts", "held-out ones that the engine refused; they count as wrong", "same"),
    Metric("evaluation/<benchmark>/accuracy", "share", "right samples of an item, mean over items (pass@1)", "rank 0"),
    Metric("evaluation/<benchmark>/pass_at_<k>", "share", "items of which one of k samples is right", "rank 0"),
    Metric("evaluation/<benchmark>/truncated", "share", "samples that were cut off", "rank 0"),
    Metric("evaluation/<benchmark>/unanswered", "share", "items without an answer", "rank 0"),
    Metric("sft/loss", "nats", "mean negative log-likelihood of the response tokens", "sum"),
    Metric("sft/entropy", "nats", "mean entropy of the distribution at them", "sum"),
    Metric("sft/grad_norm", "1", "norm of the whole gradient before it is clipped", "same"),
    Metric("sft/lr", "1", "learning rate", "same"),
)

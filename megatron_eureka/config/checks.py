"""Checks that need two options, the model's sizes or the number of ranks; before a job starts, without torch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Literal

from megatron_eureka.config.model_info import ModelInfo
from megatron_eureka.config.schema import Config, Parallel

MAX_NAME_BYTES = 200  # file systems take 255, and names of files beside it are longer
ADORA_RIGHT = 0.5  # total reward of a right response, as in `rl.advantages.adora`

Task = Literal["grpo", "sft"]


def check(
    config: Config, info: ModelInfo | None, world_size: int, task: Task = "grpo", more: Iterable[str] = ()
) -> None:
    """Refuse a run that cannot work.

    Args:
        config: the resolved options.
        info: the model's sizes; without them only the options are compared with each other.
        world_size: number of trainer ranks.
        task: "sft" leaves out what only rollouts, rewards and groups need.
        more: problems that were found elsewhere.

    Raises:
        ValueError: all problems found, one a line, each with the options that clash and a way out.
    """
    problems = [*_layout(config, world_size), *_data(config), *_name(config)]
    if info is not None:
        problems += [*_model_layout(config.parallel, info), *_lengths(config, info, task)]
    if task == "grpo":
        problems += [
            *_batches(config),
            *_algorithm(config),
            *_filter(config),
            *_rollout(config, info, world_size),
            *_reward(config),
        ]
    if not config.model.path:
        problems.append("model.path is empty: give the Hugging Face folder or a Megatron checkpoint of a model.")
    if task == "grpo" and not config.model.freeze_vision:
        problems.append(
            "model.freeze_vision = false with GRPO: the engines keep their vision tower and image features, so it must "
            "stay fixed. Set model.freeze_vision = true, or train the tower with SFT."
        )
    problems += more
    if problems:
        raise ValueError("This run cannot work:\n" + "\n".join(f"- {problem}" for problem in problems))


def doubts(config: Config) -> list[str]:
    """What works and is seldom meant, one sentence each; for GRPO."""
    rollout, algorithm, reward = config.rollout, config.algorithm, config.reward
    found = []
    correction = algorithm.correction.weights != "none" or algorithm.correction.reject != "none"
    if correction and (rollout.top_p < 1.0 or rollout.top_k > 0):
        found.append(
            "rollout.top_p or rollout.top_k cut the distribution: the engine's log-probs are those within, the "
            "trainer's are not, so algorithm.correction weighs tokens too low. Sample from all tokens, or set "
            "algorithm.correction.weights = none."
        )
    if algorithm.adora.enabled and (reward.accuracy_weight <= ADORA_RIGHT or reward.format_weight > ADORA_RIGHT):
        found.append(
            f"algorithm.adora takes responses with a total reward above {ADORA_RIGHT} for right ones: with "
            f"reward.accuracy_weight = {reward.accuracy_weight:g} and reward.format_weight = {reward.format_weight:g} "
            "that is not what they are."
        )
    return found


def _divides(divisor: int, number: int, divisor_name: str, number_name: str) -> Iterator[str]:
    if number % divisor:
        fitting = [size for size in range(1, divisor) if number % size == 0][-1]
        yield f"{number_name} {number} is not divisible by {divisor_name} = {divisor}. Use {divisor_name} = {fitting}."


def _layout(config: Config, world_size: int) -> Iterator[str]:
    axes = config.parallel
    ranks = axes.tp * axes.pp * axes.cp
    if world_size % ranks:
        yield (
            f"{world_size} ranks cannot be laid out as parallel.tp {axes.tp} x parallel.pp {axes.pp} x parallel.cp "
            f"{axes.cp} = {ranks}. Start a multiple of {ranks} ranks (launch.ranks) or make one of the three smaller."
        )
    elif config.train.samples_per_update < world_size // ranks:
        dp = world_size // ranks
        yield (
            f"train.samples_per_update = {config.train.samples_per_update} leaves some of the {dp} data-parallel ranks "
            f"(world size {world_size} / {ranks}) without a sample. Use at least {dp}, or fewer ranks."
        )
    if config.launch.nodes > 1 and world_size // config.launch.nodes % axes.tp:
        yield (
            f"parallel.tp = {axes.tp} does not fit into a node: {world_size} ranks on launch.nodes = "
            f"{config.launch.nodes}. Choose a tp that divides the ranks of one node."
        )
    if axes.sp and axes.tp == 1:
        yield "parallel.sp = true needs parallel.tp > 1. Leave parallel.sp out, or raise parallel.tp."
    yield from _interleaving(axes)
    if axes.cp > 1:
        yield f"parallel.cp = {axes.cp}: context parallelism is not supported yet. Set parallel.cp = 1."


def check_model_layout(axes: Parallel, info: ModelInfo) -> None:
    """Refuse tp, pp and vpp that do not fit a model; for tools that cut its weights without a run.

    Raises:
        ValueError: all problems found, one a line.
    """
    problems = [*_interleaving(axes), *_model_layout(axes, info)]
    if problems:
        raise ValueError("This layout cannot be:\n" + "\n".join(f"- {problem}" for problem in problems))


def _interleaving(axes: Parallel) -> Iterator[str]:
    if axes.vpp > 1 and axes.pp == 1:
        yield f"parallel.vpp = {axes.vpp} needs parallel.pp > 1. Set parallel.vpp = 1, or raise parallel.pp."


def _model_layout(axes: Parallel, info: ModelInfo) -> Iterator[str]:
    if axes.tp > info.num_kv_heads:
        yield (
            f"parallel.tp = {axes.tp} exceeds the model's {info.num_kv_heads} key-value heads. "
            f"Use parallel.tp <= {info.num_kv_heads} and more parallel.pp."
        )
    else:
        yield from _divides(axes.tp, info.num_kv_heads, "parallel.tp", "The model's number of key-value heads")
    yield from _divides(axes.tp, info.num_heads, "parallel.tp", "The model's number of attention heads")
    yield from _divides(axes.tp, info.vocab_size, "parallel.tp", "The model's vocabulary size")
    yield from _divides(axes.tp, info.ffn_size, "parallel.tp", "The model's FFN size")
    if info.num_layers % (axes.pp * axes.vpp):
        yield (
            f"The model's {info.num_layers} layers are not divisible by parallel.pp {axes.pp} x parallel.vpp "
            f"{axes.vpp} = {axes.pp * axes.vpp}. Choose sizes whose product divides {info.num_layers}."
        )


def _lengths(config: Config, info: ModelInfo, task: Task) -> Iterator[str]:
    prompt, response = config.data.max_prompt_tokens, config.rollout.max_response_tokens
    if task == "sft":  # responses are as long as the demonstrations are
        response = 0
    if prompt + response > info.max_positions:
        yield (
            f"data.max_prompt_tokens {prompt} + rollout.max_response_tokens {response} = {prompt + response} exceed "
            f"the model's {info.max_positions} positions. Lower one of the two."
        )
    # A row holds a prompt and one response at least; rows are never cut inside a sequence.
    if prompt + response > config.train.max_tokens_per_microbatch:
        yield (
            f"data.max_prompt_tokens {prompt} + rollout.max_response_tokens {response} = {prompt + response} do not "
            f"fit into train.max_tokens_per_microbatch = {config.train.max_tokens_per_microbatch}. "
            f"Raise it to {prompt + response}, or lower one of the two."
        )


def _data(config: Config) -> Iterator[str]:
    data = config.data
    if not data.train:
        yield "data.train is empty: give JSONL files of prompts, data.train=[prompts.jsonl]."
    if data.min_pixels > data.max_pixels:
        yield f"data.min_pixels = {data.min_pixels} exceeds data.max_pixels = {data.max_pixels}. Swap or widen them."


def _name(config: Config) -> Iterator[str]:
    name = config.logging.name
    if name in (".", "..") or re.search(r"[/\\\x00-\x1f]", name) or len(name.encode()) > MAX_NAME_BYTES:
        yield (
            f"logging.name = {name!r} is no name of a folder inside logging.root. Leave out slashes and control "
            f"characters, take at most {MAX_NAME_BYTES} bytes, and give the folder around it as logging.root."
        )


def _batches(config: Config) -> Iterator[str]:
    rollout, samples = config.rollout, config.rollout.prompts_per_step * config.rollout.samples_per_prompt
    if samples % config.train.samples_per_update:
        yield (
            f"rollout.prompts_per_step {rollout.prompts_per_step} x rollout.samples_per_prompt "
            f"{rollout.samples_per_prompt} = {samples} samples are not divisible by train.samples_per_update = "
            f"{config.train.samples_per_update}. Use {math.gcd(samples, config.train.samples_per_update)}."
        )
    if config.train.samples_per_update % rollout.samples_per_prompt:
        yield (
            f"train.samples_per_update = {config.train.samples_per_update} is no multiple of "
            f"rollout.samples_per_prompt = {rollout.samples_per_prompt}: an update takes whole groups. "
            f"Use {rollout.samples_per_prompt * max(1, config.train.samples_per_update // rollout.samples_per_prompt)}."
        )
    if rollout.samples_per_prompt == 1 and config.algorithm.advantage != "reinforce_pp":
        yield (
            f"rollout.samples_per_prompt = 1 with algorithm.advantage = {config.algorithm.advantage}: a group of one "
            "has no baseline. Use at least 2, or reinforce_pp, which has none."
        )


def _filter(config: Config) -> Iterator[str]:
    bounds, samples = config.algorithm.filter, config.rollout.samples_per_prompt
    if not bounds.enabled:
        return
    if bounds.lower > bounds.upper:
        yield (
            f"algorithm.filter.lower = {bounds.lower} exceeds algorithm.filter.upper = {bounds.upper}: no group could "
            "be kept. Swap them."
        )
    # The slack is for decimal fractions: 0.1 * 10 must count as 1.
    elif math.ceil(bounds.lower * samples - 1e-9) > math.floor(bounds.upper * samples + 1e-9):
        yield (
            f"algorithm.filter.lower = {bounds.lower} and algorithm.filter.upper = {bounds.upper} leave no possible "
            f"number of right answers among rollout.samples_per_prompt = {samples}. Widen the bounds."
        )


def _algorithm(config: Config) -> Iterator[str]:
    algorithm, correction = config.algorithm, config.algorithm.correction
    if correction.reject != "none" and correction.reject_low >= correction.reject_high:
        yield (
            f"algorithm.correction.reject_low = {correction.reject_low} is not below algorithm.correction.reject_high "
            f"= {correction.reject_high}: everything would be rejected. Swap or widen them around 1."
        )
    if algorithm.loss == "ppo_clip" and algorithm.dual_clip <= 1.0 + algorithm.clip_high:
        yield (
            f"algorithm.dual_clip = {algorithm.dual_clip} is within the range of algorithm.clip_high = "
            f"{algorithm.clip_high}: it caps the loss of bad tokens that are {1.0 + algorithm.clip_high:g} times as "
            "likely. Use a larger one (3)."
        )


def _rollout(config: Config, info: ModelInfo | None, world_size: int) -> Iterator[str]:
    size = config.rollout.tp
    yield from _divides(size, world_size, "rollout.tp", "The number of ranks")
    if config.launch.nodes > 1 and world_size // config.launch.nodes % size:
        yield (
            f"rollout.tp = {size} does not fit into a node: {world_size} ranks on launch.nodes = "
            f"{config.launch.nodes}. Choose a size that divides the ranks of one node."
        )
    if world_size % size == 0 and config.rollout.prompts_per_step < world_size // size:
        yield (
            f"rollout.prompts_per_step = {config.rollout.prompts_per_step} leaves some of the {world_size // size} "
            f"engines ({world_size} ranks / rollout.tp {size}) idle. Use at least {world_size // size}."
        )
    if info is None:
        return
    yield from _divides(size, info.num_heads, "rollout.tp", "The model's number of attention heads")
    yield from _divides(size, info.ffn_size, "rollout.tp", "The model's FFN size")
    if info.vision is not None:
        yield from _divides(size, info.vision.num_heads, "rollout.tp", "The vision tower's number of heads")
    if info.num_kv_heads % size and size % info.num_kv_heads:  # vLLM copies heads when there are fewer than ranks
        yield (
            f"rollout.tp = {size} neither divides nor is a multiple of the model's {info.num_kv_heads} key-value "
            f"heads. Use rollout.tp = {math.gcd(size, info.num_kv_heads)}."
        )


def _reward(config: Config) -> Iterator[str]:
    reward, longest = config.reward, config.rollout.max_response_tokens
    given = (reward.accuracy_weight, reward.format_weight, reward.functions, reward.services)
    if not any((*given, reward.overlong.penalty, reward.repetition.penalty)):
        yield (
            "reward.accuracy_weight and reward.format_weight are 0, and reward.functions and reward.services are "
            "empty: every reward would be 0. Give one of the four."
        )
    if reward.overlong.penalty and reward.overlong.buffer(longest) > longest:
        yield (
            f"reward.overlong.buffer_tokens = {reward.overlong.buffer_tokens} exceeds rollout.max_response_tokens = "
            f"{longest}: every response would be punished. Use a buffer of {max(1, longest // 5)}, say."
        )
    for name, penalty in (("overlong", reward.overlong.penalty), ("repetition", reward.repetition.penalty)):
        if penalty and config.algorithm.truncated == "penalize":
            yield (
                "algorithm.truncated = penalize sets all rewards of a response that was cut off to 0, so it would "
                f"score better than one that reward.{name}.penalty punishes. Set algorithm.truncated = keep, or no "
                "penalty."
            )

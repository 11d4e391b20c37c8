"""vLLM inside the trainer's processes: one worker a rank, an engine over `rollout.tp` consecutive ranks.

vLLM's `external_launcher` starts beside the process groups that the trainer has initialised, and needs no server. Ranks
of one engine get the same requests and draw the same tokens. On CUDA an engine sleeps while the trainer works (written
for it, not yet run on a GPU); on CPU there is no sleep mode and both calls do nothing.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist

from megatron_eureka.engines.dealing import DealtEngine
from megatron_eureka.engines.handover import SourceError, guarded, parts
from megatron_eureka.engines.isolation import set_environment, torch_state_kept
from megatron_eureka.engines.options import EngineOptions
from megatron_eureka.engines.protocol import GenerateRequest, Images, Rejection, SamplingOptions, WeightSource
from megatron_eureka.engines.suppress import end_texts, stop_token_ids, suppressed_token_ids, without_end
from megatron_eureka.log import progress
from megatron_eureka.types import FinishReason, Sample, VersionSpan
from megatron_eureka.weights import hf_tensors, vision_tensors

set_environment(on_cpu=not torch.cuda.is_available())

from vllm import LLM, SamplingParams  # noqa: E402  (reads the environment that is set above)
from vllm.outputs import CompletionOutput, RequestOutput  # noqa: E402
from vllm.tokenizers import get_tokenizer  # noqa: E402

from megatron_eureka.engines.plugin import register  # noqa: E402
from megatron_eureka.engines.vllm_arguments import llm_arguments, vllm_prompt  # noqa: E402


class ColocatedEngine(DealtEngine):
    """The engines of a job, seen from a rank of one of them; see `protocol.Engine`. Build it on all ranks together.

    Args:
        images: of the prompts that `sample` will be asked; None where they have none.

    Raises:
        ValueError: torch.distributed is not initialised, or the engine's size does not divide the world.
        RuntimeError: vLLM failed; the message names the engine and the rank.
    """

    def __init__(self, options: EngineOptions, images: Images | None = None) -> None:
        world = _world_size(options.tp)
        rank = dist.get_rank()
        super().__init__(rank // options.tp, world // options.tp, images)
        self.options = options
        self.policy_version = 0
        self._rank, self._on_cpu = rank, not torch.cuda.is_available()
        self._usable, self._update_complete = options.from_folder, False
        self._asleep: set[str] = set()  # of "weights" and "kv_cache"; CUDA only
        self._info = options.source.info
        tokenizer = get_tokenizer(options.source.hf)
        stop_ids = stop_token_ids(options.source.hf, tokenizer)
        self.suppressed = options.suppressed
        if self.suppressed is None:
            self.suppressed = suppressed_token_ids(self._info.vocab_size, tokenizer, stop_ids)
        self._tower = frozenset(vision_tensors(self._info))
        self._end_texts = end_texts(tokenizer, stop_ids)
        if self._on_cpu:
            options.check_kv_cache()
        register()
        with self._vllm("did not start"):
            self._llm = LLM(**llm_arguments(options, self._on_cpu, self.suppressed, _job_identity()))
            shapes = {tensor.name: tensor.shape for tensor in hf_tensors(self._info).values()}
            self._llm.init_weight_transfer_engine({"init_info": {"shapes": shapes, "frozen": list(options.frozen)}})

    def generate(
        self,
        requests: Sequence[GenerateRequest],
        sampling: SamplingOptions,
        on_samples: Callable[[int, tuple[Sample, ...]], None] | None = None,
    ) -> list[tuple[Sample, ...] | Rejection]:
        """For each request to this rank's engine its samples, one a seed, in order; or why it was refused.

        All ranks of an engine pass the same arguments. Samples of one prompt are separate requests to vLLM, each with
        its own seed; the prompt is computed once through the prefix cache. `on_samples` is told of each request that
        was not refused, by its index, when its last sample is finished.

        Raises:
            RuntimeError: the weights are not usable, or vLLM failed.
            ValueError: a prompt and `max_tokens` together are longer than the engine's limit.
        """
        if not self._usable:
            raise RuntimeError(
                f"Engine {self.engine_index} (rank {self._rank}) has no usable weights: no update has finished since "
                "it started empty or since one failed. Update its weights completely before generating."
            )
        results: dict[int, tuple[Sample, ...] | Rejection] = {
            index: rejection
            for index, request in enumerate(requests)
            if (rejection := self._reject(request, sampling)) is not None
        }
        asked = {index: request for index, request in enumerate(requests) if index not in results}
        with self._vllm("failed to generate"):
            for index, outputs in progress(self._finished(asked, sampling), "generating", len(asked)):
                results[index] = result = self._samples(asked[index], outputs)
                if on_samples is not None and not isinstance(result, Rejection):
                    on_samples(index, result)
        return [results[index] for index in range(len(requests))]

    def _finished(
        self, asked: dict[int, GenerateRequest], sampling: SamplingOptions
    ) -> Iterator[tuple[int, list[RequestOutput]]]:
        """(index, its outputs, one a seed) when the last of them is done; `LLM.generate` tells of all together."""
        if not asked:
            return
        draws = [(index, draw) for index, request in asked.items() for draw in range(len(request.seeds))]
        prompts = [vllm_prompt(asked[index]) for index, _ in draws]
        parameters = [self._parameters(sampling, asked[index].seeds[draw]) for index, draw in draws]
        names = self._llm.enqueue(prompts, parameters, use_tqdm=False)  # "7-1f03c2aa" of what comes out as "7"
        of_name = {name.partition("-")[0]: pair for name, pair in zip(names, draws, strict=True)}
        outputs: dict[int, dict[int, RequestOutput]] = {index: {} for index in asked}
        while self._llm.llm_engine.has_unfinished_requests():
            for output in self._llm.llm_engine.step():
                if output.finished:
                    index, draw = of_name[output.request_id]
                    outputs[index][draw] = output
                    if len(outputs[index]) == len(asked[index].seeds):
                        done = outputs.pop(index)
                        yield index, [done[draw] for draw in range(len(done))]

    def update_weights(self, source: WeightSource, version: int | None = None) -> None:
        """Take the trainer's weights, all ranks of the job together.

        Frozen tensors come with the first update and with the one after a failure. When any rank fails, every rank
        raises and the engines refuse to generate until a later update has finished.

        Args:
            source: makes the tensors, in lockstep on all ranks.
            version: of the new weights; by default one more than before.

        Raises:
            RuntimeError: naming the ranks that failed, and why.
            SourceError: this rank could not make its weights; it has to end, since others wait for it.
        """
        include_frozen = not self._update_complete
        self._usable = self._update_complete = False
        stream = source.stream(include_frozen=include_frozen)
        failure = self._receive(stream)
        for _ in stream:  # the other ranks still need this one for their collectives
            pass
        failures: list[str | None] = [None] * dist.get_world_size()
        dist.all_gather_object(failures, failure)
        if any(failures):
            text = "; ".join(f"rank {rank}: {reason}" for rank, reason in enumerate(failures) if reason)
            raise RuntimeError(f"Weight update failed, the engines refuse to generate until one succeeds. {text}")
        self._usable = self._update_complete = True
        self.policy_version = self.policy_version + 1 if version is None else version

    def sleep(self) -> None:
        """Give GPU memory to the trainer: weights move to host memory, the KV cache is dropped."""
        if not self._on_cpu:
            self._llm.sleep(level=1)
            self._asleep = {"weights", "kv_cache"}

    def wake(self, tags: tuple[str, ...] = ("weights", "kv_cache")) -> None:
        """Take GPU memory back for those of `tags` that are asleep."""
        wanted = [tag for tag in tags if tag in self._asleep]
        if wanted:  # vLLM wakes nothing at all when it is asked for one that is awake
            self._llm.wake_up(tags=wanted)
            self._asleep -= set(wanted)

    def _receive(self, stream: Iterator[tuple[str, torch.Tensor]]) -> str | None:
        """Start, update part by part, finish, drop what old weights computed. Returns why the engine failed, if it did.

        Raises:
            SourceError: the trainer's side failed. The other ranks wait in its collectives, so this rank has to end.
        """
        tower_changed = False
        try:
            with self._vllm("failed to update its weights"):
                self._llm.start_weight_update()
                for part in parts(guarded(stream)):
                    tower_changed |= any(name in self._tower for name, _ in part)
                    self._llm.update_weights({"update_info": {"tensors": part}})
                self._llm.finish_weight_update()
                if not self._llm.reset_prefix_cache():
                    raise RuntimeError("the prefix cache of the old weights is still in use")
                if tower_changed:
                    self._llm.llm_engine.reset_encoder_cache()
        except SourceError:
            raise
        except RuntimeError as error:
            return str(error)
        return None

    def _reject(self, request: GenerateRequest, sampling: SamplingOptions) -> Rejection | None:
        prompt = request.prompt
        length = prompt.num_tokens + sampling.max_tokens
        if length > self.options.max_model_tokens:
            raise ValueError(
                f"Prompt {prompt.id} of {prompt.num_tokens} tokens and {sampling.max_tokens} response tokens exceed "
                f"the engine's {self.options.max_model_tokens}. Lower data.max_prompt_tokens or max_response_tokens."
            )
        placeholders = prompt.engine_token_ids.count(self._info.image_token_id)
        if placeholders != len(request.images):
            return Rejection(prompt.id, f"{placeholders} image placeholders for {len(request.images)} images")
        if len(request.images) > self.options.max_images:
            return Rejection(prompt.id, f"{len(request.images)} images, the engine takes {self.options.max_images}")
        return None

    def _parameters(self, sampling: SamplingOptions, seed: int) -> SamplingParams:
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=max(sampling.top_k, 0),
            seed=seed,
            max_tokens=sampling.max_tokens,
            stop=list(sampling.stop),
            include_stop_str_in_output=True,
            skip_special_tokens=False,  # the tags of thinking may be some; of others only end tokens can come
            logprobs=0,  # of the drawn token alone
        )

    def _samples(self, request: GenerateRequest, outputs: list[RequestOutput]) -> tuple[Sample, ...] | Rejection:
        prompt = request.prompt
        for output in outputs:
            seen = tuple(output.prompt_token_ids or ())
            if seen != prompt.token_ids:
                ours, theirs = (ids.count(self._info.image_token_id) for ids in (prompt.token_ids, seen))
                return Rejection(
                    prompt.id,
                    f"the engine saw {len(seen)} prompt tokens ({theirs} of images), the trainer has "
                    f"{len(prompt.token_ids)} ({ours} of images)",
                )
        return tuple(self._sample(output.outputs[0]) for output in outputs)

    def _sample(self, output: CompletionOutput) -> Sample:
        if output.finish_reason not in tuple(FinishReason):
            raise RuntimeError(
                f"Engine {self.engine_index} (rank {self._rank}) ended a response for {output.finish_reason!r}."
            )
        token_ids = tuple(output.token_ids)
        logprobs = tuple(entry[token].logprob for token, entry in zip(token_ids, output.logprobs, strict=True))
        text = without_end(output.text, self._end_texts.get(token_ids[-1], "")) if token_ids else output.text
        drawn_by = (VersionSpan(0, self.policy_version),)
        return Sample(token_ids, logprobs, FinishReason(output.finish_reason), drawn_by, text)

    @contextmanager
    def _vllm(self, what: str) -> Iterator[None]:
        """Calls into vLLM: the trainer's torch state is kept, and any failure says which engine it was."""
        try:
            with torch_state_kept():
                yield
        except SourceError:
            raise
        except Exception as error:  # vLLM raises whatever its parts raise; all of it ends here, with its cause
            raise RuntimeError(
                f"Engine {self.engine_index} (rank {self._rank}) {what}: {type(error).__name__}: {error}"
            ) from error


def _world_size(tp: int) -> int:
    if not dist.is_initialized():
        raise ValueError("A colocated engine starts beside torch.distributed: initialise the process group first.")
    world = dist.get_world_size()
    if world % tp:
        raise ValueError(f"rollout.tp {tp} does not divide the {world} ranks. Choose a divisor of {world}.")
    # What torchrun sets and vLLM reads; ranks that were started otherwise may lack them.
    os.environ.setdefault("RANK", str(dist.get_rank()))
    os.environ.setdefault("WORLD_SIZE", str(world))
    os.environ.setdefault("LOCAL_RANK", str(dist.get_rank() % max(1, torch.cuda.device_count() or world)))
    return world


def _job_identity() -> str:
    """A name for this start, the same on all ranks."""
    name = [uuid.uuid4().hex]
    dist.broadcast_object_list(name, src=0)
    return name[0]

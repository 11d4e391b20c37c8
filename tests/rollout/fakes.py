"""An engine and a scorer that take no time, note what they are asked and do what a test says."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future

from megatron_eureka.engines.dealing import DealtEngine
from megatron_eureka.engines.protocol import GenerateRequest, Rejection, SamplingOptions
from megatron_eureka.rewards.failures import Failures
from megatron_eureka.types import FinishReason, ImageKey, Prompt, Sample, VersionSpan


def prompt(number: int, answer: str = "", names: Sequence[str] = ()) -> Prompt:
    """Prompt `p{number}`, whose last user turn asks `question {number}`."""
    images = tuple(ImageKey(digest=name, grid_thw=(1, 2, 2), num_tokens=1) for name in names)
    content = [{"type": "image", "image": name} for name in names] + [{"type": "text", "text": f"question {number}"}]
    before = ({"role": "user", "content": "a question before"}, {"role": "assistant", "content": "its answer"})
    messages = ({"role": "system", "content": "be brief"}, *before, {"role": "user", "content": content})
    return Prompt(f"p{number}", f"data.jsonl:{number + 1}", messages, answer, (number,), (number,), images)


class Images:
    """Stands for the image store: an image is its name, and some cannot be decoded."""

    def __init__(self, broken: Collection[str] = ()):
        self.broken = broken

    def image(self, key: ImageKey) -> str:
        if key.digest in self.broken:
            raise ValueError(f"{key.digest} is not a readable image")
        return f"image {key.digest}"


class RecordingEngine(DealtEngine):
    """Response i to a prompt has the text "i" and is cut off where i is in `truncated`.

    Prompts are dealt over engines, and samples travel, as those of real ones.

    Args:
        rejected: ids of prompts that get no responses.
        images: of the prompts.
    """

    def __init__(
        self,
        engine_index: int = 0,
        num_engines: int = 1,
        rejected: Collection[str] = (),
        truncated: Collection[int] = (),
        images: Images | None = None,
    ):
        super().__init__(engine_index, num_engines, images or Images())
        self.policy_version = 0
        self.rejected, self.truncated = rejected, truncated
        self.calls: list[list[GenerateRequest]] = []
        self.sampling: list[SamplingOptions] = []

    def generate(
        self,
        requests: Sequence[GenerateRequest],
        sampling: SamplingOptions,
        on_samples: Callable[[int, tuple[Sample, ...]], None] | None = None,
    ) -> list[tuple[Sample, ...] | Rejection]:
        self.calls.append(list(requests))
        self.sampling.append(sampling)
        answers = [self._answer(request) for request in requests]
        for place, answer in enumerate(answers):
            if on_samples is not None and not isinstance(answer, Rejection):
                on_samples(place, answer)
        return answers

    def _answer(self, request: GenerateRequest) -> tuple[Sample, ...] | Rejection:
        if request.prompt.id in self.rejected:
            return Rejection(request.prompt.id, "12 tokens here, 13 there")
        return tuple(
            Sample((seed,), (-1.0,), self._reason(i), (VersionSpan(0, self.policy_version),), str(i))
            for i, seed in enumerate(request.seeds)
        )

    def _reason(self, number: int) -> FinishReason:
        return FinishReason.LENGTH if number in self.truncated else FinishReason.STOP

    @property
    def asked(self) -> list[list[str]]:
        """[calls][requests] ids of prompts."""
        return [[request.prompt.id for request in call] for call in self.calls]


class CountingScorer:
    """Response i is right while i is below the label; the total tells every response of a run from all others."""

    def __init__(self):
        self.calls: list[tuple[list[str], list[str], list[str]]] = []
        self.scored = 0
        self.failures = [Failures("accuracy", "the verification of answers", ("accuracy",))]

    def take_failures(self) -> list[Failures]:
        return [failures.take() for failures in self.failures]

    def submit(
        self, prompts: list[str], responses: list[str], labels: list[str], num_tokens: list[int]
    ) -> Future[list[dict[str, float]]]:
        self.calls.append((prompts, responses, labels))
        rewards = []
        for response, label in zip(responses, labels, strict=True):
            self.scored += 1
            right = float(int(response) < int(label))
            rewards.append({"accuracy": right, "format": 1.0, "total": right + self.scored / 1000})
        future: Future[list[dict[str, float]]] = Future()
        future.set_result(rewards)
        return future

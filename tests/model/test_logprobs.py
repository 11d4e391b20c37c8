"""Log-probs, entropies and gradients over a sharded vocabulary against torch on the full matrix in float64."""

import math
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

import megatron_eureka.model.logprobs as logprobs_module
from megatron_eureka.model.logprobs import Head, token_losses, vocab_parallel_logprobs
from tests.ranks import run_ranks

VOCABULARY, HIDDEN, TARGETS = 32, 16, 11
BANNED = (0, 9, *range(16, 24), 31)  # with 4 ranks, all that the third one has


def case() -> tuple[torch.Tensor, ...]:
    """Hidden states, head, targets that are not banned, and gradients of both outputs."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    allowed = torch.tensor([token for token in range(VOCABULARY) if token not in BANNED])
    targets = allowed[torch.randint(len(allowed), (TARGETS,), generator=generator)]
    return random(TARGETS, HIDDEN), random(VOCABULARY, HIDDEN), targets, random(TARGETS), random(TARGETS)


def reference(hidden, weight, targets, grad_logprobs, grad_entropies, temperature, banned) -> dict:
    hidden, weight = hidden.double().requires_grad_(), weight.double().requires_grad_()
    excluded = torch.zeros(len(weight), dtype=torch.bool)
    excluded[list(banned)] = True
    logits = (hidden @ weight.T / temperature).masked_fill(excluded, float("-inf"))
    log_softmax = torch.log_softmax(logits, -1)
    logprobs = log_softmax.gather(1, targets[:, None])[:, 0]
    entropies = -(log_softmax.exp() * log_softmax.masked_fill(excluded, 0.0)).sum(-1)
    ((logprobs * grad_logprobs.double()).sum() + (entropies * grad_entropies.double()).sum()).backward()
    return {"logprobs": logprobs, "entropies": entropies, "hidden": hidden.grad, "weight": weight.grad}


def ours(rank, world, hidden, weight, targets, grad_logprobs, grad_entropies, temperature, banned, chunk) -> dict:
    hidden = hidden.clone().requires_grad_()
    local = weight.chunk(world)[rank].clone().requires_grad_()
    excluded = None
    if banned:
        excluded = torch.zeros(len(weight), dtype=torch.bool)
        excluded[list(banned)] = True
        excluded = excluded.chunk(world)[rank]
    head = Head(local, dist.group.WORLD, temperature, excluded, chunk_bytes=4 * chunk * len(local))
    logprobs, entropies = vocab_parallel_logprobs(hidden, targets, head)
    torch.autograd.backward([logprobs, entropies], [grad_logprobs, grad_entropies])
    dist.all_reduce(hidden.grad)  # each rank has the part of its tokens
    whole = {
        "logprobs": logprobs.detach(),
        "entropies": entropies.detach(),
        "hidden": hidden.grad,
        "weight": local.grad,
    }
    check_made_by_chunks(whole, hidden, targets, head, grad_logprobs, grad_entropies)
    return whole


def check_made_by_chunks(whole, hidden, targets, head, grad_logprobs, grad_entropies) -> None:
    """A loss whose gradients are made chunk by chunk has the same numbers, and adds to a `main_grad`."""

    def loss(part, logprobs, entropies):
        return (logprobs * grad_logprobs[part]).sum() + (entropies * grad_entropies[part]).sum()

    expected = (whole["logprobs"] * grad_logprobs).sum() + (whole["entropies"] * grad_entropies).sum()
    for main_grad in (None, torch.ones_like(head.weight)):
        states, weight = hidden.detach().clone().requires_grad_(), head.weight.detach().clone().requires_grad_()
        if main_grad is not None:
            weight.main_grad = main_grad
        value, logprobs, entropies = token_losses(states, targets, replace(head, weight=weight), loss)
        assert torch.equal(logprobs, whole["logprobs"]) and torch.equal(entropies, whole["entropies"])
        torch.testing.assert_close(value.detach(), expected, rtol=1e-5, atol=1e-5)  # float32 sums in another order
        value.backward()
        dist.all_reduce(states.grad)
        torch.testing.assert_close(
            states.grad, whole["hidden"], rtol=0, atol=1e-6
        )  # the same operations, chunk by chunk
        found = weight.grad if main_grad is None else main_grad - 1
        assert main_grad is None or weight.grad is None
        torch.testing.assert_close(found, whole["weight"], rtol=0, atol=1e-5)  # 1 + x - 1


def merge(ranks: list[dict]) -> dict:
    """One result: what must be alike on all ranks, and the gradient of the whole head."""
    for other in ranks[1:]:
        for name in ("logprobs", "entropies", "hidden"):
            assert torch.equal(other[name], ranks[0][name]), name
    return {**ranks[0], "weight": torch.cat([rank["weight"] for rank in ranks])}


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize(
    ("temperature", "banned", "chunk"),
    [(1.0, (), 1024), (0.7, BANNED, 4), (0.7, (), 1), (1.0, BANNED, TARGETS)],
    ids=["plain", "all at once, several chunks", "a target a chunk", "banned"],
)
def test_equals_log_softmax_on_the_full_matrix(world, temperature, banned, chunk):
    arguments = case()
    expected = reference(*arguments, temperature, banned)
    assert (expected["logprobs"] < -1).any() and (expected["entropies"] > 0.1).any()  # not decided everywhere
    result = merge(run_ranks(world, ours, *arguments, temperature, banned, chunk))
    for name, value in expected.items():
        # The reference is float64, so this is our float32 rounding: a last bit of logits of 25 is 2e-6, and gradients
        # are sums of up to 32 terms of which each carries one. Measured: 1e-6 of log-probs, 7e-6 of gradients.
        torch.testing.assert_close(result[name].double(), value, rtol=0, atol=3e-5, msg=lambda m, n=name: f"{n}: {m}")
    if banned:
        assert not result["weight"][list(banned)].any()


@pytest.mark.parametrize("world", [1, 2, 4])
def test_nothing_to_predict(world):
    hidden, weight = case()[:2]
    none = torch.empty(0)
    arguments = (hidden[:0], weight, torch.empty(0, dtype=torch.int64), none, none)
    result = merge(run_ranks(world, ours, *arguments, 0.7, BANNED, 4))
    assert result["logprobs"].shape == result["entropies"].shape == (0,)
    assert result["hidden"].shape == (0, HIDDEN)
    assert result["weight"].shape == weight.shape and not result["weight"].any()


@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_target_far_below_the_peak_keeps_its_logprob_and_gradient(world):
    """exp(-110) is 0 in float32: what has no probability left still has a log-probability."""
    # One hidden unit of 1, so that the head's column is the logits: 0 at three tokens, -110 at the target.
    hidden, weight = torch.ones(1, 1), torch.tensor([[0.0], [0.0], [-110.0], [0.0]])
    arguments = (hidden, weight, torch.tensor([2]), torch.ones(1), torch.zeros(1))
    result = merge(run_ranks(world, ours, *arguments, 1.0, (), 1))
    # By hand: -110 - ln 3; a third for each of the others. Float32 has steps of 8e-6 at 110.
    assert result["logprobs"].item() == pytest.approx(-110 - math.log(3), abs=2e-5)
    assert result["entropies"].item() == pytest.approx(math.log(3), abs=1e-6)
    expected = torch.tensor([[-1 / 3], [-1 / 3], [1.0], [-1 / 3]])
    torch.testing.assert_close(result["weight"], expected, rtol=0, atol=1e-6)  # a few last bits of numbers of size 1
    assert result["hidden"].item() == pytest.approx(-110, abs=2e-5)


def without_entropy(rank, world):
    hidden, weight, targets, grad_logprobs, _ = case()
    head = Head(weight.requires_grad_(), dist.group.WORLD, chunk_bytes=4 * 4 * len(weight))

    def loss(part, logprobs, entropies):
        return (logprobs * grad_logprobs[part]).sum()

    made = []
    original = logprobs_module._Chunk.gradient
    logprobs_module._Chunk.gradient = lambda self, *arguments: made.append(arguments[1]) or original(self, *arguments)
    token_losses(hidden.requires_grad_(), targets, head, loss)[0].backward()
    logprobs, _ = vocab_parallel_logprobs(hidden, targets, head)
    (logprobs * grad_logprobs).sum().backward()
    return made


def test_no_gradient_of_the_entropy_is_made_where_the_loss_has_none():
    assert run_ranks(1, without_entropy) == [[None] * 6]  # three chunks, twice


def scaled_afterwards(rank, world):
    hidden, weight, targets, *_ = case()
    weight.requires_grad_().main_grad = torch.zeros_like(weight)
    head = Head(weight, dist.group.WORLD)
    loss, *_ = token_losses(hidden.requires_grad_(), targets, head, lambda part, logprobs, _: logprobs.sum())
    with pytest.raises(RuntimeError, match="the loss was scaled after its gradients had been made"):
        (2 * loss).backward()


def test_a_loss_that_is_scaled_too_late_is_noticed():
    run_ranks(1, scaled_afterwards)


def in_bf16(rank, world, with_main_grad):
    """Relative errors of the gradients of a head of several blocks, row block by row block, and of hidden states."""
    generator = torch.Generator().manual_seed(0)
    num_tokens, vocabulary = 24, 2 * logprobs_module.BLOCK_ROWS + 500
    hidden = torch.randn(num_tokens, HIDDEN, generator=generator).bfloat16()
    weight = torch.randn(vocabulary, HIDDEN, generator=generator).mul(0.3).bfloat16()
    targets = torch.randint(vocabulary, (num_tokens,), generator=generator)
    upstream, banned = torch.randn(num_tokens, generator=generator), set(range(7)) - set(targets.tolist())
    expected = reference(hidden, weight, targets, upstream, torch.zeros(num_tokens), 0.7, sorted(banned))
    excluded = torch.tensor([token in banned for token in range(vocabulary)])
    states, rows = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    if with_main_grad:
        rows.main_grad = torch.zeros_like(rows, dtype=torch.float32)
    head = Head(rows, dist.group.WORLD, 0.7, excluded, chunk_bytes=4 * 7 * vocabulary)
    loss, *_ = token_losses(states, targets, head, lambda part, logprobs, _: (logprobs * upstream[part]).sum())
    loss.backward()
    found = rows.main_grad if with_main_grad else rows.grad

    def error(mine, right):
        return float((mine.double() - right).norm() / right.norm())

    blocks = zip(
        found.split(logprobs_module.BLOCK_ROWS), expected["weight"].split(logprobs_module.BLOCK_ROWS), strict=True
    )
    return [error(states.grad, expected["hidden"]), *(error(*pair) for pair in blocks)]


@pytest.mark.parametrize("with_main_grad", [True, False])
def test_bf16_gradients_are_summed_in_float32_block_by_block(with_main_grad):
    (errors,) = run_ranks(1, in_bf16, with_main_grad)
    assert len(errors) == 4 and max(errors) < 1e-2  # bf16 has steps of 1/256; sums of many average them out

"""Log-probabilities and entropies of given tokens, and losses made of them, over a sharded vocabulary.

Legend: n targets, c of them in a chunk, H hidden size, V vocabulary, W = V / tp this rank's part of it.

Only [c, W] logits exist at a time. Where the loss is a sum over tokens, a chunk's gradient is made while its logits are
there (`token_losses`); else the backward pass makes them again (`vocab_parallel_logprobs`). The gradient of the head
goes straight into the buffer in which its micro-batches are summed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist

BANNED_LOGIT = -1e30  # its exponential is 0, and 0 times it is a number, which it would not be with -inf
BLOCK_ROWS = 8192  # of the head, whose gradient is cast at a time

# (places of a chunk among the targets, their log-probabilities [c], their entropies [c]) -> its part of the loss
ChunkLoss = Callable[[slice, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Head:
    """What makes logits of hidden states, and how much of them exists at once."""

    weight: torch.Tensor  # [W, H], this rank's rows; `main_grad`, where it has one, takes its gradient
    group: dist.ProcessGroup  # tensor-parallel
    temperature: float = 1.0  # divides the logits, as in sampling
    banned: torch.Tensor | None = None  # [W] bool, this rank's tokens that the sampler may not choose: no probability
    chunk_bytes: int = 64 << 20  # of a chunk's logits in float32; 2.5 times as much exists at most

    def chunks(self, num_targets: int) -> Iterator[slice]:
        """Places of the targets of each chunk."""
        size = max(1, self.chunk_bytes // (4 * self.weight.shape[0]))
        return (slice(start, min(start + size, num_targets)) for start in range(0, num_targets, size))


@dataclass(frozen=True)
class _Chunk:
    """The distribution of each target of a chunk; the matrices are used up by `gradient`."""

    shifted: torch.Tensor  # [c, W] float32, logits less their largest
    exponentials: torch.Tensor  # [c, W] float32
    total: torch.Tensor  # [c] float32, sum of the exponentials over the whole vocabulary
    logprobs: torch.Tensor  # [c] float32
    entropies: torch.Tensor  # [c] float32
    column: torch.Tensor  # [c] int64, of the target in this rank's part, or any
    mine: torch.Tensor  # [c] bool, the target is in this rank's part

    @classmethod
    def of(cls, hidden: torch.Tensor, targets: torch.Tensor, head: Head) -> _Chunk:
        """hidden [c, H], targets [c]. All ranks of the group together."""
        logits = (hidden @ head.weight.T).float()
        if head.temperature != 1.0:
            logits.div_(head.temperature)
        if head.banned is not None:
            logits.masked_fill_(head.banned, BANNED_LOGIT)
        peak = logits.amax(-1)
        dist.all_reduce(peak, op=dist.ReduceOp.MAX, group=head.group)
        shifted = logits.sub_(peak[:, None])
        column = targets - dist.get_rank(head.group) * head.weight.shape[0]
        mine = (column >= 0) & (column < head.weight.shape[0])
        column = column.clamp(0, head.weight.shape[0] - 1)
        picked = shifted.gather(1, column[:, None])[:, 0].masked_fill(~mine, 0.0)
        exponentials = shifted.exp()
        weighted = torch.bmm(exponentials[:, None], shifted[:, :, None])[:, 0, 0]  # without another matrix
        sums = torch.stack([exponentials.sum(-1), weighted, picked])
        dist.all_reduce(sums, group=head.group)
        total, weighted, target = sums
        log_total = total.log()
        return cls(shifted, exponentials, total, target - log_total, log_total - weighted / total, column, mine)

    def gradient(self, grad_logprobs: torch.Tensor, grad_entropies: torch.Tensor | None, temperature: float):
        """[c, W] float32 with respect to the logits before the temperature."""
        # d logprob / d logit = onehot - p;  d entropy / d logit = -p (log p + entropy)
        grad = self.exponentials
        if grad_entropies is None:
            grad.mul_((-grad_logprobs / (self.total * temperature))[:, None])
        else:
            surprise = self.shifted.add_((self.entropies - self.total.log())[:, None])
            surprise.mul_(grad_entropies[:, None]).add_(grad_logprobs[:, None])
            grad.mul_(surprise).div_((-self.total * temperature)[:, None])
        return grad.scatter_add_(1, self.column[:, None], (grad_logprobs * self.mine / temperature)[:, None])


class _Gradients:
    """Collects the gradients of the hidden states and of the head, chunk by chunk."""

    def __init__(self, hidden: torch.Tensor, weight: torch.Tensor):
        self._hidden_states, self._weight = hidden, weight
        self.hidden = torch.empty_like(hidden)
        self._main = getattr(weight, "main_grad", None)
        self._total = torch.zeros_like(weight, dtype=torch.float32) if self._main is None else self._main

    def add(self, part: slice, grad: torch.Tensor) -> None:
        """grad [c, W], with respect to the logits of a chunk."""
        grad, states = grad.to(self._hidden_states.dtype), self._hidden_states[part]
        torch.mm(grad, self._weight, out=self.hidden[part])
        if self._total.dtype == grad.dtype:
            self._total.addmm_(grad.T, states)
            return
        for first in range(0, len(self._weight), BLOCK_ROWS):
            block = slice(first, first + BLOCK_ROWS)
            self._total[block].add_(grad[:, block].T @ states)

    @property
    def weight(self) -> torch.Tensor | None:
        """None where it is in `main_grad` already."""
        return self._total.to(self._weight.dtype) if self._main is None else None


class _LogProbs(torch.autograd.Function):
    """See `vocab_parallel_logprobs`. The gradient of `hidden` is this rank's part: the caller's collective sums it."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, head):
        ctx.set_materialize_grads(False)
        logprobs = hidden.new_empty(len(hidden), dtype=torch.float32)
        entropies = torch.empty_like(logprobs)
        for part in head.chunks(len(targets)):
            chunk = _Chunk.of(hidden[part], targets[part], head)
            logprobs[part], entropies[part] = chunk.logprobs, chunk.entropies
            del chunk  # before the next one is made
        ctx.save_for_backward(hidden, targets)
        ctx.head = head
        return logprobs, entropies

    @staticmethod
    def backward(ctx, grad_logprobs, grad_entropies):
        hidden, targets = ctx.saved_tensors
        head, gradients = ctx.head, _Gradients(hidden, ctx.head.weight)
        if grad_logprobs is None:
            grad_logprobs = torch.zeros_like(grad_entropies)
        for part in head.chunks(len(targets)):
            chunk = _Chunk.of(hidden[part], targets[part], head)
            of_entropies = None if grad_entropies is None else grad_entropies[part]
            gradients.add(part, chunk.gradient(grad_logprobs[part], of_entropies, head.temperature))
            del chunk
        return gradients.hidden, gradients.weight, None, None


class _TokenLosses(torch.autograd.Function):
    """See `token_losses`."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, head, chunk_loss):
        gradients = _Gradients(hidden, weight)
        logprobs = hidden.new_empty(len(hidden), dtype=torch.float32)
        entropies, loss = torch.empty_like(logprobs), logprobs.new_zeros(())
        for part in head.chunks(len(targets)):
            chunk = _Chunk.of(hidden[part], targets[part], head)
            logprobs[part], entropies[part] = chunk.logprobs, chunk.entropies
            leaves = [chunk.logprobs.detach().requires_grad_(), chunk.entropies.detach().requires_grad_()]
            with torch.enable_grad():
                value = chunk_loss(part, *leaves)
            of_logprobs, of_entropies = torch.autograd.grad(value, leaves, allow_unused=True)
            of_logprobs = torch.zeros_like(chunk.logprobs) if of_logprobs is None else of_logprobs
            gradients.add(part, chunk.gradient(of_logprobs, of_entropies, head.temperature))
            loss += value.detach()
            del chunk
        ctx.save_for_backward(gradients.hidden)
        ctx.grad_weight = gradients.weight
        ctx.mark_non_differentiable(logprobs, entropies)
        return loss, logprobs, entropies

    @staticmethod
    def backward(ctx, grad_loss, *_):
        (grad_hidden,) = ctx.saved_tensors
        grad_weight, ctx.grad_weight = ctx.grad_weight, None
        if grad_weight is None:  # it went into `main_grad` as it is
            torch._assert_async(grad_loss == 1, "the loss was scaled after its gradients had been made")
        else:
            grad_weight.mul_(grad_loss)
        return grad_hidden * grad_loss, grad_weight, None, None, None


def vocab_parallel_logprobs(
    hidden: torch.Tensor, targets: torch.Tensor, head: Head
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each target and entropy of its distribution, softmax in FP32.

    Args:
        hidden: [n, H], the same on every rank of the head's group. Its gradient is partial: sum it over the group.
        targets: [n] int64, ids over the whole vocabulary; none of them banned.

    Returns:
        log-probabilities [n] float32, entropies [n] float32; the same on every rank of the group.
    """
    return _LogProbs.apply(hidden, head.weight, targets, head)


def token_losses(
    hidden: torch.Tensor, targets: torch.Tensor, head: Head, chunk_loss: ChunkLoss
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A loss that is a sum over the targets, with one product less than `vocab_parallel_logprobs` and the loss on it.

    The gradients are made here. Where the head has a `main_grad`, its part is added to that at once, so the loss must
    be the last value before `backward`, neither scaled nor left out.

    Args:
        hidden, targets: as above.
        chunk_loss: the sum over the targets of a slice, made by autograd's operations.

    Returns:
        the loss [], and without gradients the log-probabilities [n] and the entropies [n], float32, the same bits as
        those of `vocab_parallel_logprobs`.
    """
    return _TokenLosses.apply(hidden, head.weight, targets, head, chunk_loss)

"""Log-probabilities and entropies of given tokens, from hidden states, in chunks, over a sharded vocabulary.

Legend: n targets, c of them in a chunk, H hidden size, V vocabulary, W = V / tp this rank's part of it.

Only [c, W] logits exist at a time: the backward pass makes them again from the hidden states.
"""

from __future__ import annotations

import torch
import torch.distributed as dist


class _ChunkedLogProbs(torch.autograd.Function):
    """See `vocab_parallel_logprobs`. The gradient of `hidden` is this rank's part: the caller's collective sums it."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, banned, temperature, group, chunk):
        first = dist.get_rank(group) * weight.shape[0]
        logprobs = hidden.new_empty(hidden.shape[0], dtype=torch.float32)
        entropies, log_sums = torch.empty_like(logprobs), torch.empty_like(logprobs)
        for start in range(0, hidden.shape[0], chunk):
            part = slice(start, start + chunk)
            logits = _logits(hidden[part], weight, banned, temperature)
            peak = logits.amax(-1)
            dist.all_reduce(peak, op=dist.ReduceOp.MAX, group=group)
            shifted = logits - peak[:, None]
            local = targets[part] - first
            mine = (local >= 0) & (local < weight.shape[0])
            picked = shifted.gather(1, local.clamp(0, weight.shape[0] - 1)[:, None])[:, 0].masked_fill(~mine, 0.0)
            exponentials = shifted.exp()
            shifted.masked_fill_(exponentials == 0, 0.0)  # banned tokens: 0 * -inf is no number
            # sum of exp, sum of exp * (logit - peak), and the target's logit - peak where this rank has it
            sums = torch.stack([exponentials.sum(-1), (exponentials * shifted).sum(-1), picked])
            dist.all_reduce(sums, group=group)
            total, weighted, target = sums
            logprobs[part] = target - total.log()
            entropies[part] = total.log() - weighted / total
            log_sums[part] = peak + total.log()
        ctx.save_for_backward(hidden, weight, targets, banned, entropies, log_sums)
        ctx.temperature, ctx.first, ctx.chunk = temperature, first, chunk
        return logprobs, entropies

    @staticmethod
    def backward(ctx, grad_logprobs, grad_entropies):
        hidden, weight, targets, banned, entropies, log_sums = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        for start in range(0, hidden.shape[0], ctx.chunk):
            part = slice(start, start + ctx.chunk)
            logprobs = _logits(hidden[part], weight, banned, ctx.temperature) - log_sums[part, None]
            probabilities = logprobs.exp()
            # d logprob / d logit = onehot - p;  d entropy / d logit = -p (log p + entropy)
            grad = -grad_logprobs[part, None] * probabilities
            surprise = (logprobs + entropies[part, None]).masked_fill_(probabilities == 0, 0.0)
            grad -= grad_entropies[part, None] * probabilities * surprise
            local = targets[part] - ctx.first
            mine = (local >= 0) & (local < weight.shape[0])
            grad.scatter_add_(1, local.clamp(0, weight.shape[0] - 1)[:, None], (grad_logprobs[part] * mine)[:, None])
            grad = grad.div_(ctx.temperature).to(hidden.dtype)
            grad_hidden[part] = grad @ weight
            grad_weight += (grad.T @ hidden[part]).float()
        return grad_hidden, grad_weight.to(weight.dtype), None, None, None, None, None


def _logits(hidden, weight, banned, temperature) -> torch.Tensor:
    logits = (hidden @ weight.T).float() / temperature
    return logits if banned is None else logits.masked_fill_(banned, float("-inf"))


def vocab_parallel_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    group: dist.ProcessGroup,
    temperature: float = 1.0,
    banned: torch.Tensor | None = None,
    chunk: int = 1024,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each target and entropy of its distribution, softmax in FP32.

    Args:
        hidden: [n, H], the same on every rank of `group`. Its gradient is partial: sum it over the group.
        weight: [W, H], this rank's rows of the head.
        targets: [n] int64, ids over the whole vocabulary; none of them banned.
        group: the tensor-parallel group.
        temperature: divides the logits, as in sampling.
        banned: [W] bool, this rank's tokens that the sampler may not choose; they take no probability.
        chunk: targets whose logits exist at once.

    Returns:
        log-probabilities [n] float32, entropies [n] float32; the same on every rank of `group`.
    """
    return _ChunkedLogProbs.apply(hidden, weight, targets, banned, temperature, group, chunk)

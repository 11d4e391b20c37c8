"""The mask of suppressed tokens is a logits processor of both of vLLM's model runners, by vLLM's own loaders."""

from types import SimpleNamespace

import pytest
import torch

from tests.ranks import run_ranks


def masked(rank, world):
    from megatron_eureka.engines.isolation import set_environment

    set_environment(on_cpu=True)
    from vllm.v1.sample.logits_processor import _load_logitsprocs_by_fqcns
    from vllm.v1.worker.gpu.sample.logits_processor.loader import _load_v2_logitsprocs_by_fqcns

    from megatron_eureka.engines.token_mask import TOKEN_MASK, TOKENS_KEY

    config = SimpleNamespace(additional_config={TOKENS_KEY: [1, 4]})
    (first,), (second,) = (load([TOKEN_MASK]) for load in (_load_logitsprocs_by_fqcns, _load_v2_logitsprocs_by_fqcns))
    runner, runner_v2 = first(config, torch.device("cpu"), False), second(config, SimpleNamespace(device="cpu"))
    assert not runner.is_argmax_invariant()  # a greedy token may be one of these
    runner.update_state(None)
    assert runner_v2.add_request(0, None)  # every request wants it
    runner_v2.apply_staged_writes()
    logits = torch.arange(12.0).view(2, 6)
    return runner.apply(logits.clone()), runner_v2.apply(logits.clone(), SimpleNamespace())


@pytest.mark.slow
def test_both_model_runners_mask_the_same_tokens():
    expected = torch.arange(12.0).view(2, 6)
    expected[:, [1, 4]] = float("-inf")
    for logits in run_ranks(1, masked, timeout=100)[0]:
        assert torch.equal(logits, expected)

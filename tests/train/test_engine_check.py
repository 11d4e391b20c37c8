"""A trainer and an engine that compute other models do not train together."""

import logging

import pytest

from megatron_eureka.config.schema import Config
from megatron_eureka.log import logger
from megatron_eureka.train.engine_check import check_engine
from tests.train.runs import run


def config(dtype: str = "fp32", **options) -> Config:
    return Config.model_validate({"precision": {"dtype": dtype}, **options})


@pytest.mark.parametrize(("dtype", "fine", "wrong"), [("fp32", 2e-5, 2e-3), ("bf16", 0.02, 0.06)])
def test_rounding_goes_through_and_more_does_not(dtype, fine, wrong):
    assert check_engine(fine, 200.0, config(dtype))
    with pytest.raises(RuntimeError, match=rf"differ by {wrong:g} .*of {dtype} explains.*\(1\) the engine has other w"):
        check_engine(wrong, 200.0, config(dtype))


def test_a_user_may_go_on(monkeypatch, caplog):
    monkeypatch.setattr(logger, "propagate", True)
    with caplog.at_level(logging.WARNING):
        assert check_engine(0.3, 200.0, config(algorithm={"correction": {"on_mismatch": "warn"}}))
    assert "differ by 0.3 on average" in caplog.text and "Nothing was trained" not in caplog.text


def test_it_waits_for_fresh_samples_and_leaves_a_nucleus_alone():
    assert not check_engine(0.0, 0.0, config())
    assert check_engine(0.3, 200.0, config(rollout={"top_p": 0.9}))


@pytest.mark.slow
def test_a_run_ends_before_it_trains(job):
    options = job.options("turned", evaluation__enabled="false", train__steps=2, checkpoint__every=1)
    result = run("train", options, "rope")
    assert result.returncode == 1, result.stderr
    assert "Engine and trainer give the same tokens log-probs that differ by" in result.stderr
    assert "a scaled RoPE" in result.stderr and "algorithm.correction.on_mismatch=warn" in result.stderr
    assert not list((job.run_folder("turned") / "checkpoints").iterdir())
    result = run("train", [*options, "algorithm.correction.on_mismatch=warn"], "rope")
    assert result.returncode == 0, result.stderr
    assert job.metrics("turned")[0]["rollout_corr/logprob_diff_mean"] > 1e-3

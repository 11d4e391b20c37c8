"""Whole runs with refill on, whose collector holds groups that wait: killed, resumed, and as another run's start."""

import pytest

from tests.train.runs import comparable, run

pytestmark = pytest.mark.slow

STEPS = 4


def options(job, name: str, **changes) -> list[str]:
    """The filter and its refill as they are by default; a checkpoint after every step, and none is removed."""
    values = {"algorithm__filter__enabled": "true", "algorithm__filter__refill": "true", "evaluation__enabled": "false"}
    values |= {"rollout__prompts_per_step": 8, "rollout__samples_per_prompt": 8, "train__samples_per_update": 32}
    values |= {"checkpoint__every": 1, "checkpoint__keep": STEPS, "optimizer__lr": 1e-4}
    return job.options(name, **{**values, **changes})


@pytest.fixture(scope="module")
def straight(taught) -> list[dict]:
    result = run("train", options(taught, "waiting", train__steps=STEPS))
    assert result.returncode == 0, result.stderr
    return taught.metrics("waiting")


@pytest.fixture(scope="module")
def waits(straight) -> int:
    """A step before the last one, after which groups wait that the next one trains on."""
    found = [
        now["step"]
        for now, after in zip(straight, straight[1:], strict=False)
        if now["filter/buffer"] > after["filter/stale"]
    ]
    assert found, "no step leaves groups over: draw more, or change the seed"
    return found[0]


def test_a_killed_run_ends_as_one_that_was_not(taught, straight, waits):
    killed = run("train", options(taught, "killed-waiting", train__steps=STEPS), f"update:{2 * waits + 1}:1:kill")
    assert killed.returncode == 1 and "rank 1 was ended by SIGKILL" in killed.stderr, killed.stderr
    result = run("train", options(taught, "killed-waiting", train__steps=STEPS))
    assert result.returncode == 0, result.stderr
    assert f"after step {waits}" in result.stderr
    resumed, expected = comparable(taught.metrics("killed-waiting")), comparable(straight)
    assert resumed.keys() == expected.keys()
    for key, value in expected.items():
        assert resumed[key] == pytest.approx(value, abs=1e-5), key  # float32 sums; in practice the bits are the same


def test_its_checkpoint_is_the_start_of_another_run(taught, straight, waits):
    start = taught.run_folder("waiting") / "checkpoints" / f"step_{waits}"
    result = run("train", options(taught, "from-waiting", train__steps=1, model__path=start))
    assert result.returncode == 0, result.stderr
    (line,) = taught.metrics("from-waiting")
    assert line["rollout_corr/probs_diff_mean"] < 1e-5  # engine and trainer have the same weights of it, in float32
    assert line["reward/accuracy/mean"] > 0  # which still know their digits

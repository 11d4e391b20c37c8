"""A user's reward that fails in a whole run: a stop with its name, and the same command goes on once it is mended."""

import pytest

from tests.train.runs import REWARD, run

FAILED = 1
BROKEN = "def vowels(prompts, responses, labels):\n    raise OSError('no weights')\n"


@pytest.mark.slow
def test_a_reward_that_fails_on_everything_stops_the_run_until_it_is_mended(job, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(BROKEN)
    options = job.options("failing", reward__functions=f"[{file}:vowels]", train__steps=1, evaluation__enabled="false")
    stopped = run("train", options)
    assert stopped.returncode == FAILED
    said = f"Step 1: reward function {file}:vowels failed on all 16 samples: OSError: no weights. "
    assert said in stopped.stderr and "reward.on_failure=continue" in stopped.stderr
    assert job.metrics("failing") == []

    file.write_text(REWARD)
    mended = run("train", options)
    assert mended.returncode == 0, mended.stderr
    assert [line["reward/failed/vowels"] for line in job.metrics("failing")] == [0.0]

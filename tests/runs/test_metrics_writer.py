"""The line of a step: its width, and how often it is said where nobody watches."""

import errno
import os

import pytest

from megatron_eureka.files import DiskFull
from megatron_eureka.runs import metrics_writer

ALL = [1, 2, 3, 4, 5, 6]


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(metrics_writer.logger, "info", lambda form, *values: lines.append(form % values))
    return lines


@pytest.mark.parametrize(("terminal", "few", "steps"), [(True, 5, ALL), (False, 5, [1, 4, 6]), (False, 6, ALL)])
def test_off_a_terminal_a_line_every_few_seconds_and_the_first_and_last(
    tmp_path, monkeypatch, said, terminal, few, steps
):
    monkeypatch.setattr(metrics_writer.sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(metrics_writer, "FEW_STEPS", few)
    writer = metrics_writer.MetricsWriter(tmp_path, 6, 0, tensorboard=False)
    now = [0.0]
    monkeypatch.setattr(metrics_writer.time, "monotonic", lambda: now[0])
    for step in range(1, 7):
        now[0] += 2.0
        writer.console(step, {"loss": "1"})
    writer.close()
    assert [int(line.split()[1].partition("/")[0]) for line in said] == steps


def test_a_line_fits_and_keeps_the_time_left(tmp_path, said):
    writer = metrics_writer.MetricsWriter(tmp_path, 1, 0, tensorboard=False)
    writer.console(1, {"reward": "1.0", "s": "part 1.0 " * 30})
    writer.close()
    assert len(said[0]) == 120 and "1/1 | reward 1.0 | s part" in said[0] and said[0].endswith("... | left 0m00s")


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    writer = metrics_writer.MetricsWriter(tmp_path, 1, 0, tensorboard=False)

    class Full:
        name = str(tmp_path / "metrics.jsonl")

        def write(self, text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writer.close()
    writer.file = Full()
    with pytest.raises(DiskFull, match="metrics.jsonl: the disk of .* is full"):
        writer.write(1, {})

"""Progress of long work: a bar on a terminal, lines elsewhere."""

import logging
import os
import pty
import re
import subprocess
import sys

from megatron_eureka.log import ByteProgress, logger

PROGRAM = """
import time
from megatron_eureka.log import ByteProgress
with ByteProgress("copying", 4_000_000_000) as progress:
    for _ in range(10):
        progress.advance(200_000_000)
        time.sleep(0.1)
"""


def test_a_terminal_shows_bytes_speed_and_time_left():
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "120", "TERM": "xterm"}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            data = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        shown += data
    os.close(ours)
    assert process.wait(timeout=30) == 0
    text = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", shown).decode()
    assert "copying" in text
    assert re.search(r"2\.0/4\.0 GB", text)
    assert re.search(r"\d\.\d GB/s", text)
    assert re.search(r"0:00:0[1-9]", text)


def test_elsewhere_a_line_comes_now_and_then(caplog, monkeypatch):
    now = iter([0.0, 4.0, 11.0, 11.0, 15.0])  # start, first look, second look (a line, its time), third
    monkeypatch.setattr("megatron_eureka.log.time.monotonic", lambda: next(now))
    monkeypatch.setattr(logger, "propagate", True)
    with caplog.at_level(logging.INFO), ByteProgress("copying", 44_000_000_000) as progress:
        for size in (4_000_000_000, 18_000_000_000, 2_000_000_000):
            progress.advance(size)
    assert caplog.messages == ["copying: 22.00 of 44.00 GB, 2.00 GB/s, 11 s left"]

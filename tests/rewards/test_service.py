"""An HTTP reward service that answers, fails, hangs, lies or is not there; and the example's, as a user starts it."""

import json
import math
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from megatron_eureka.config.schema import Reward
from megatron_eureka.rewards import service
from megatron_eureka.rewards.components import Batch
from megatron_eureka.rewards.scorer import Scorer
from megatron_eureka.rewards.service import RewardService

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "custom_reward" / "service.py"
GOOD = b'{"kind": [1.0, 0.5]}'
BATCH = ["?", "!"], ["one", "two"], ["1", "2"]


class Server(ThreadingHTTPServer):
    """Gives the replies of a list one after the other, the last one for ever; keeps the requests."""

    daemon_threads = True

    def __init__(self, replies):
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies, self.requests, self.stop = list(replies), [], threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/score"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        replies = self.server.replies
        status, body = replies.pop(0) if len(replies) > 1 else replies[0]
        if body == "hang":
            self.server.stop.wait(60)
            return
        self.send_response(status)
        if body == "drip":  # each line in time, the headers never
            while not self.server.stop.wait(0.1):
                self.send_header("X-More", "x")
                self.flush_headers()
            return
        self.end_headers()
        if body == "trickle":  # each byte in time, the reply never
            while not self.server.stop.wait(0.1):
                self.wfile.write(b" ")
                self.wfile.flush()
            return
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setattr(service, "FIRST_PAUSE_S", 0.01)
    servers = []

    def start(*replies):
        server = Server(replies)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop.set()
        server.shutdown()
        server.server_close()


def call(url, timeout_s=5.0, retries=2):
    caller = RewardService(url, timeout_s, retries, concurrency=2)
    try:
        return ask(caller), counted(caller)
    finally:
        caller.close()


def ask(caller):
    return caller.submit(Batch(*BATCH)).result(timeout=30)


def counted(caller):
    return {name: caller.failures.counters[name] for name in ("timeouts", "errors")}


def test_a_good_reply(serve):
    server = serve((200, GOOD))
    assert call(server.url) == ([{"kind": 1.0}, {"kind": 0.5}], {"timeouts": 0, "errors": 0})
    assert server.requests == [{"prompts": ["?", "!"], "responses": ["one", "two"], "labels": ["1", "2"]}]


@pytest.mark.parametrize("first", [(500, b"oops"), (429, b""), (200, b"<html>"), (200, b"\xff"), (200, b"[" * 100_000)])
def test_what_may_pass_is_tried_again(serve, first):
    server = serve(first, (200, GOOD))
    assert call(server.url) == ([{"kind": 1.0}, {"kind": 0.5}], {"timeouts": 0, "errors": 0})
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "reply, retries, requests", [((500, b""), 2, 3), ((500, b""), 0, 1), ((404, b""), 2, 1), ((200, b"garbage"), 1, 2)]
)
def test_what_does_not_pass_scores_nothing_and_is_counted(serve, reply, retries, requests):
    server = serve(reply)
    assert call(server.url, retries=retries) == ([{}, {}], {"timeouts": 0, "errors": 2})
    assert len(server.requests) == requests


def test_pauses_grow_to_a_limit(serve, monkeypatch):
    pauses = []

    async def note(seconds):
        pauses.append(seconds)

    monkeypatch.setattr(service.asyncio, "sleep", note)
    monkeypatch.setattr(service, "LONGEST_PAUSE_S", 0.05)
    call(serve((500, b"")).url, retries=5)
    assert pauses == [0.01, 0.02, 0.04, 0.05, 0.05]


@pytest.mark.parametrize("how", ["hang", "trickle", "drip"])
def test_a_service_that_hangs_ends_in_time(serve, how):
    server = serve((200, how))
    start = time.monotonic()
    assert call(server.url, timeout_s=0.5, retries=1) == ([{}, {}], {"timeouts": 2, "errors": 0})
    assert time.monotonic() - start < 5  # two requests of half a second


def test_nobody_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound and not listening: refused
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
        assert call(url, retries=0) == ([{}, {}], {"timeouts": 0, "errors": 2})


@pytest.mark.parametrize(
    "body, part",
    [
        (b"[1, 2]", "expected a dict"),
        (b'{"a": [1.0]}', "1 values of 'a' for 2 samples"),
        (b'{"overlong": [1, 2]}', "reserved"),
        (b'{"a": 1.0}', "returned float of 'a'"),
    ],
)
def test_wrong_forms_are_refused(serve, body, part):
    with pytest.raises(ValueError, match=part):
        call(serve((200, body)).url)


@pytest.mark.parametrize("body", [b'{"detail": "overloaded"}', b'["overloaded"]', b'{"kind": [1.0]}'])
def test_a_wrong_form_behind_a_good_reply_is_a_failure(serve, body):
    server = serve((200, GOOD), (200, body), (200, GOOD), (200, body))
    caller = RewardService(server.url, 5.0, 1, concurrency=2)
    good = [{"kind": 1.0}, {"kind": 0.5}]
    assert [ask(caller) for _ in range(2)] == [good, good]  # the second one at its second request
    assert caller.failures.counters["errors"] == 0 and len(server.requests) == 3
    assert ask(caller) == [{"kind": 0.0}, {"kind": 0.0}]
    assert counted(caller) == {"timeouts": 0, "errors": 2} and len(server.requests) == 5
    caller.close()


def test_a_wrong_form_is_refused_until_there_was_a_good_reply(serve):
    with pytest.raises(ValueError, match="float of 'a'"):
        call(serve((500, b""), (200, b'{"a": 1.0}')).url)


def test_values_that_are_no_finite_numbers_score_nothing(serve):
    big = b"1" + b"0" * 400
    scores, counters = call(serve((200, b'{"a": [NaN, 1], "b": ["x", 2], "c": [' + big + b", 3]}")).url)
    assert scores == [{"a": 0.0, "b": 0.0, "c": 0.0}, {"a": 1.0, "b": 2.0, "c": 3.0}] and counters["errors"] == 1


def test_batches_are_sent_as_they_come_some_at_a_time(serve):
    server = serve((200, "hang"), (200, "hang"), (200, GOOD))
    caller = RewardService(server.url, 30.0, 0, concurrency=2)
    futures = [caller.submit(Batch(*BATCH)) for _ in range(3)]
    wait_until(lambda: len(server.requests) == 2)
    time.sleep(0.2)
    assert len(server.requests) == 2 and not any(future.done() for future in futures)  # the third one waits
    server.stop.set()  # the two that hang end without a reply
    assert futures[2].result(timeout=30) == [{"kind": 1.0}, {"kind": 0.5}]
    assert not any(any(score.values()) for future in futures[:2] for score in future.result(timeout=30))
    assert caller.failures.counters["errors"] == 4
    caller.close()


def test_a_service_that_keeps_on_failing_is_left_alone_until_the_next_batches(serve):
    server = serve(*[(500, b"")] * service.MAX_FAILED, (200, GOOD))
    caller = RewardService(server.url, 5.0, 0, concurrency=1)
    futures = [caller.submit(Batch(*BATCH)) for _ in range(service.MAX_FAILED + 3)]
    assert [future.result(timeout=30) for future in futures] == [[{}, {}]] * len(futures)
    assert len(server.requests) == service.MAX_FAILED and caller.failures.counters["errors"] == 2 * len(futures)
    assert ask(caller) == [{"kind": 1.0}, {"kind": 0.5}]
    caller.close()


def test_failures_with_successes_between_them_stop_nothing(serve):
    replies = [(500, b""), (200, GOOD)] * (service.MAX_FAILED + 1)
    server = serve(*replies)
    caller = RewardService(server.url, 5.0, 0, concurrency=1)
    futures = [caller.submit(Batch(*BATCH)) for _ in replies]
    kinds = [future.result(timeout=30)[0].get("kind", 0.0) for future in futures]
    assert kinds == [0.0, 1.0] * (service.MAX_FAILED + 1) and len(server.requests) == len(replies)
    caller.close()


def test_close_ends_what_is_under_way(serve):
    server = serve((200, "hang"))
    caller = RewardService(server.url, 60.0, 3, concurrency=1)
    futures = [caller.submit(Batch(*BATCH)) for _ in range(2)]
    wait_until(lambda: server.requests)
    start = time.monotonic()
    caller.close()
    caller.close()  # a second time does nothing
    assert time.monotonic() - start < 10 and all(future.cancelled() for future in futures)


def wait_until(reached):
    deadline = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("url", ["127.0.0.1:80", "ftp://host/", "http://", "http:///score"])
def test_addresses_are_checked_at_the_start(url):
    with pytest.raises(ValueError, match="reward.services"):
        Scorer(Reward(services=[url]), 100)


def test_components_join_the_total_and_stay_named_when_the_service_fails(serve):
    server = serve((200, GOOD), (500, b""))
    with Scorer(Reward(workers=1, services=[server.url], service_retries=0), 100) as scorer:
        scores = scorer.score(*BATCH)
        assert [(score["kind"], score["total"]) for score in scores] == [(1.0, 1.0), (0.5, 0.5)]
        assert [(score["kind"], score["total"]) for score in scorer.score(*BATCH)] == [(0.0, 0.0), (0.0, 0.0)]
        assert scorer.counters == {"timeouts": 0, "errors": 2}
        assert scorer.score([], [], []) == []


def test_any_text_arrives(serve):
    server = serve((200, b'{"a": [1]}'))
    text = "\ud800 \x00 ‮ é 𝟛 \u2028"
    with Scorer(Reward(workers=1, services=[server.url]), 100) as scorer:
        assert scorer.score([text], [text], ["1"])[0]["a"] == 1.0
    assert server.requests[0]["responses"] == [text]


def test_the_examples_service():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(EXAMPLE), "--port", str(port)])
    url, deadline = f"http://127.0.0.1:{port}/score", time.monotonic() + 60
    try:
        while True:
            try:
                httpx.post(url, json={"prompts": [], "responses": [], "labels": []}, timeout=5)
                break
            except httpx.ConnectError:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.1)
        with Scorer(Reward(workers=1, services=[url]), 100) as scorer:
            short, long = scorer.score(["?"] * 2, ["8", "8 " + "x" * 400], ["8"] * 2)
        assert (short["brief"], short["total"]) == (0.2, 1.2)
        assert long["brief"] == 0.0 and math.isclose(long["total"], long["accuracy"])
        assert httpx.post(url, content=b"{", timeout=5).status_code == 400
    finally:
        process.terminate()
        process.wait(timeout=10)

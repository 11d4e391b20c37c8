"""The judge behind a real HTTP server: what it is asked, retries, the cache, and what happens when it fails."""

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from megatron_eureka.config.schema import Evaluation
from megatron_eureka.evaluate.judge import Judge, prompt_for
from megatron_eureka.evaluate.results import ItemResult, SampleResult
from tests.evaluate.items import item


class Server(ThreadingHTTPServer):
    """Answers yes where the response holds "right"; `plan` has (status, body) for the next requests instead."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[dict] = []
        self.plan: list[tuple[int, str]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
        status, reply = 200, None
        if self.server.plan:
            status, reply = self.server.plan.pop(0)
        if reply is None:
            words = "Yes." if "right" in body["messages"][0]["content"].split("Response:")[1] else "No"
            reply = json.dumps({"choices": [{"message": {"role": "assistant", "content": words}}]})
        self.send_response(status)
        self.end_headers()
        self.wfile.write(reply.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def results(*responses):
    return [
        ItemResult(item("3", "integer", id=str(n)), (SampleResult(response, "", False, False),))
        for n, response in enumerate(responses)
    ]


def make(server, folder, **more):
    waits = []
    values = {"judge_model": "m", "judge_workers": 1, "judge_retries": 2, **more}
    options = Evaluation(judge_url=server.url, **values)
    return Judge(options, folder / "judge.jsonl", waits.append), waits


def test_verdicts_and_what_is_asked(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    judge, _ = make(server, tmp_path, judge_key_env="MY_KEY", judge_workers=3)
    assert judge.verdicts(results("right", "bad", "right again")) == [True, False, True]
    request = server.requests[0]
    assert (request["path"], request["key"], request["model"]) == ("/v1/chat/completions", "Bearer secret", "m")
    assert request["temperature"] == 0
    text = request["messages"][0]["content"]
    assert "How many?" in text and "Right answer: 3" in text
    assert "secret" not in (tmp_path / "judge.jsonl").read_text()


def test_nothing_is_asked_twice_not_even_by_the_next_process(server, tmp_path):
    judge, _ = make(server, tmp_path)
    assert judge.verdicts(results("right", "right", "bad")) == [True, True, False]
    assert len(server.requests) == 2
    assert judge.verdicts(results("bad")) == [False]
    with open(tmp_path / "judge.jsonl", "a") as file:
        file.write('{"key": "torn')
    again, _ = make(server, tmp_path)
    assert again.verdicts(results("right", "bad")) == [True, False]
    assert len(server.requests) == 2 and again.counters == {"asked": 0, "cached": 2, "failed": 0}
    again.verdicts(results("new"))
    make(server, tmp_path)[0].verdicts(results("new"))  # the torn line did not take the next one with it
    assert len(server.requests) == 3
    other, _ = make(server, tmp_path, judge_model="another")
    other.verdicts(results("right"))
    assert len(server.requests) == 4


def test_failures_are_retried_with_longer_waits(server, tmp_path):
    server.plan = [(500, "oops"), (429, "slow down")]
    judge, waits = make(server, tmp_path)
    assert judge.verdicts(results("right")) == [True]
    assert waits == [1.0, 2.0] and len(server.requests) == 3


@pytest.mark.parametrize(
    ("plan", "requests"),
    [
        ([(500, "x")] * 3, 3),
        ([(200, "no JSON")] * 3, 3),
        ([(200, '{"choices": []}')] * 3, 3),
        ([(200, '{"choices": [{"message": {"content": "perhaps"}}]}')] * 3, 3),
        ([(200, '{"choices": [{"message": {"content": null}}]}')] * 3, 3),
        ([(400, "content filter")], 1),  # asking again would not help
    ],
)
def test_what_gets_no_verdict_is_left_to_the_rules_and_counted(server, tmp_path, caplog, plan, requests):
    server.plan = list(plan)
    judge, _ = make(server, tmp_path)
    assert judge.verdicts(results("right", "bad")) == [None, False]
    assert judge.counters == {"asked": 1, "cached": 0, "failed": 1} and len(server.requests) == requests + 1
    assert "the rules' verdict stays" in caplog.text
    assert make(server, tmp_path)[0].verdicts(results("right")) == [True]  # a failure is not remembered


def test_a_server_that_is_not_there_is_a_failure(server, tmp_path):
    judge, waits = make(server, tmp_path)
    judge._url = "http://127.0.0.1:9/v1/chat/completions"  # discard: nobody listens
    assert judge.verdicts(results("right")) == [None]
    assert len(waits) == 2


def test_a_slow_answer_is_a_failure(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        options = Evaluation(
            judge_url=f"http://127.0.0.1:{silent.getsockname()[1]}",
            judge_model="m",
            judge_timeout_s=0.2,
            judge_retries=0,
        )
        assert Judge(options, tmp_path / "judge.jsonl").verdicts(results("right")) == [None]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refused_key_or_model_ends_the_evaluation(server, tmp_path, status):
    server.plan = [(status, "no such model")] * 50
    judge, _ = make(server, tmp_path)
    with pytest.raises(ValueError, match=f"refuses model 'm': {status} 'no such model'. Check evaluation.judge_url"):
        judge.verdicts(results(*map(str, range(50))))
    assert len(server.requests) < 10  # the rest is not asked


def test_options_that_lack_something_are_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(ValueError, match="without evaluation.judge_model"):
        Judge(Evaluation(judge_url="http://x"), tmp_path / "c")
    with pytest.raises(ValueError, match="NO_KEY is not set"):
        Judge(Evaluation(judge_url="http://x", judge_model="m", judge_key_env="NO_KEY"), tmp_path / "c")


def test_a_response_cannot_take_another_place_in_the_prompt():
    text = prompt_for("q {gold}", "g", "{question} " + "x" * 9000)
    assert "q {gold}" in text and text.count("q {gold}") == 1
    assert "x" * 4000 in text and "x" * 4001 not in text

"""The judge behind a real HTTP server: what it is asked, retries, the cache, and what happens when it fails."""

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from megatron_eureka.config.schema import Evaluation
from megatron_eureka.evaluate.judge import Judge, prompt_for, read_verdict
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
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def results(*responses):
    return [
        ItemResult(item("3", "integer", id=str(n)), (SampleResult(response, "", False, False),))
        for n, response in enumerate(responses)
    ]


def saying(text, finish_reason="stop"):
    """A reply of the judge."""
    return json.dumps({"choices": [{"message": {"content": text}, "finish_reason": finish_reason}]})


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
    assert (request["temperature"], request["max_tokens"]) == (0, 4096)
    text = request["messages"][0]["content"]
    assert "How many?" in text and "Right answer: 3" in text
    assert "secret" not in (tmp_path / "judge.jsonl").read_text()


def test_without_a_key_none_is_sent_whatever_the_environment_holds(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "of another endpoint")
    judge, _ = make(server, tmp_path)
    assert judge.verdicts(results("right")) == [True]
    assert server.requests[0]["key"] is None


def test_half_a_surrogate_pair_can_be_asked_about(server, tmp_path):
    judge, _ = make(server, tmp_path)
    assert judge.verdicts(results("right \ud83d")) == [True]
    assert "right ?" in server.requests[0]["messages"][0]["content"]


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
        ([(200, '{"choices": [{"message": {"content": ["yes"]}}]}')] * 3, 3),
        ([(425, "too early")] * 3, 3),
        ([(200, saying("perhaps"))], 1),  # asking again would get the same
        ([(200, saying(None, "length"))], 1),
        ([(200, saying("<think> It says yes, but", "length"))], 1),
        ([(400, "content filter")], 1),
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
    server.url = "http://127.0.0.1:9/v1"  # discard: nobody listens
    judge, waits = make(server, tmp_path)
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


@pytest.mark.parametrize(
    ("text", "finish_reason", "verdict"),
    [
        ("VERDICT: yes", "stop", True),
        ("VERDICT: no", "stop", False),
        ("Both are 3. There is no difference.\n\n**Verdict:** yes.", "stop", True),
        ("The response says yes at first.\n**VERDICT: no**\n", "stop", False),
        ("Final verdict: **yes**", "stop", True),
        ("<think> There is no difference. VERDICT: no? No. </think>\n\nVERDICT: yes", "stop", True),
        (" first a thought without its opening tag, no </think> Yes.", "stop", True),
        ("<think>\n\n</think>\n\nno", "stop", False),
        ("VERDICT: yes\nRemarks: the response", "length", True),  # cut off behind the verdict
        ("Yes.", "stop", True),
        ("Yes, it is equal.", "stop", True),
        ("No - 3 is not 4.", "stop", False),
        ("3 is equal to 3.\n\n**Yes**", "stop", True),
        ("Yes. There is no difference.", "stop", None),  # both words
        ("There is no difference.", "stop", None),  # no verdict, but a word of the reasons
        ("I shall end with VERDICT: yes or VERDICT: no. First,", "length", None),
        ("VERDICT: yes or no", "stop", None),
        ("No wonder that the response, with its long", "length", None),
        ("<think> The response says 3, so yes", "length", None),
        ("<think> Let me see.\nVERDICT: yes\nBut wait", "length", None),
        ("perhaps", "stop", None),
        ("", "stop", None),
    ],
)
def test_verdicts_of_judges_that_think_and_of_those_that_do_not(text, finish_reason, verdict):
    assert read_verdict(text, finish_reason) is verdict


def test_a_cut_off_judge_is_told_and_asked_once(server, tmp_path, caplog):
    server.plan = [(200, saying(None, "length"))]
    judge, waits = make(server, tmp_path, judge_max_tokens=7)
    assert judge.verdicts(results("right")) == [None] and not waits
    assert [request["max_tokens"] for request in server.requests] == [7]
    assert "no verdict within evaluation.judge_max_tokens = 7" in caplog.text


LIMITS = ("max_tokens", "max_completion_tokens", "temperature")
OTHER_NAME = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."
NO_TEMPERATURE = "Unsupported value: 'temperature' does not support 0 with this model."


def test_an_endpoint_gets_the_settings_that_it_takes(server, tmp_path):
    server.plan = [(400, OTHER_NAME), (422, NO_TEMPERATURE)]
    judge, waits = make(server, tmp_path)
    assert judge.verdicts(results("right", "bad")) == [True, False]
    sent = [{name: request.get(name) for name in LIMITS} for request in server.requests]
    changed = {"max_tokens": None, "max_completion_tokens": 4096, "temperature": None}
    assert sent[1] == {**changed, "temperature": 0} and sent[2:] == [changed, changed] and not waits


def test_settings_that_help_nothing_are_not_kept(server, tmp_path):
    server.plan = [(200, saying("yes")), *[(400, "max_tokens is too large, and so is the prompt")] * 2]
    judge, _ = make(server, tmp_path)
    assert judge.verdicts(results("long", "longer", "right")) == [True, None, True]
    assert server.requests[-1]["max_tokens"] == 4096


@pytest.mark.parametrize(("status", "items"), [(400, 50), (422, 50), (400, 1)])
def test_an_endpoint_that_takes_no_request_ends_the_evaluation(server, tmp_path, status, items):
    server.plan = [(status, "top_p is required")] * items
    judge, _ = make(server, tmp_path)
    with pytest.raises(ValueError, match=f"takes no request: {status} 'top_p is required'. Check evaluation.judge_url"):
        judge.verdicts(results(*map(str, range(items))))
    assert len(server.requests) < 10


def test_requests_that_are_not_taken_are_failures_where_others_are(server, tmp_path):
    server.plan = [(200, None), *[(400, "content filter")] * 6]
    judge, _ = make(server, tmp_path)
    assert judge.verdicts(results("right", *"abcdef")) == [True, *[None] * 6]
    server.plan = [(400, "content filter")]
    again, _ = make(server, tmp_path)
    assert again.verdicts(results("right", "a")) == [True, None]  # it has given a verdict before


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

"""A reward service of your own: start it, and give its address in `reward.services`.

    python examples/custom_reward/service.py --port 8009
    megatron-eureka train configs/digits/grpo.yaml "reward.services=[http://127.0.0.1:8009/score]"

A request is {"prompts": [...], "responses": [...], "labels": [...]}, the responses to one prompt, which stands once a
response; the reply is {component: [a number a sample]}, added to the total and logged as `reward/COMPONENT/mean`.
Requests come while other prompts are generated, `reward.service_concurrency` at a time. Those that fail or take longer
than `reward.service_timeout_s` are repeated `reward.service_retries` times; then the samples score 0 here, and a run
whose service fails on every sample of a step stops (`reward.on_failure`).

It listens on this machine alone. One for other machines needs --host, and a network whose every member may use it.
"""

import argparse
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BONUS = 0.2
MAX_CHARACTERS = 400


def score(prompts: list[str], responses: list[str], labels: list[str]) -> dict[str, list[float]]:
    """A bonus for a brief response."""
    return {"brief": [BONUS if len(response) <= MAX_CHARACTERS else 0.0 for response in responses]}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        try:
            batch = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            status, reply = 200, score(batch["prompts"], batch["responses"], batch["labels"])
        except (ValueError, KeyError, TypeError) as error:
            status, reply = 400, {"error": repr(error)}
        body = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8009, help="port to listen on (default: %(default)s)")
    options = parser.parse_args()
    ThreadingHTTPServer((options.host, options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()

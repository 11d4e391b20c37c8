"""The program of one verifier process: reads calls from standard input, writes results to standard output.

`python worker.py MODULE_FILE MEMORY_BYTES`. A call is a JSON line [function name, arguments]; an answer is a JSON line
["ok", value] or ["error", text]. It is started as a file, not as part of the package, so it loads what it verifies with
and nothing else.
"""

import ctypes
import importlib.util
import json
import logging
import os
import resource
import signal
import sys


def serve(module_file: str, memory_bytes: int) -> None:
    """Answer calls until the input closes or the parent is gone; a call that never ends dies with the parent too."""
    parent = os.getppid()
    if sys.platform.startswith("linux"):
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call
            return
    # Results have the real standard output for themselves; what the verifier prints goes to standard error.
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, resource.getrlimit(resource.RLIMIT_AS)[1]))
    sys.path.insert(0, os.path.dirname(os.path.abspath(module_file)))  # a user's file may import its neighbours
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    spec = importlib.util.spec_from_file_location("verifier", module_file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    _answer(output, json.dumps(["ready", None]))
    for line in sys.stdin.buffer:
        name, arguments = json.loads(line)
        try:
            answer = json.dumps(["ok", getattr(module, name)(*arguments)], default=_plain)
        # Whatever a verifier raises on hostile text costs that sample its point and nothing else.
        except Exception as error:
            answer = json.dumps(["error", f"{type(error).__name__}: {str(error)[:300]}"])
        _answer(output, answer)


def _answer(output, text: str) -> None:
    output.write(text + "\n")
    output.flush()


def _plain(value):
    """Arrays as lists and other libraries' numbers as numbers."""
    return value.tolist() if hasattr(value, "tolist") else float(value)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))

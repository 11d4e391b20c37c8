"""Functions that misbehave, for the pool's tests."""

import os
import sys
import time


def double(number):
    return 2 * number


def hang(_):
    while True:
        time.sleep(60)


def hang_deaf_to_alarms(_):
    import signal

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM, signal.SIGTERM, signal.SIGINT})
    while True:
        pass


def fail(text):
    raise ArithmeticError(text)


def die(_):
    os.kill(os.getpid(), 9)


def die_once(flag):
    if not os.path.exists(flag):
        open(flag, "w").close()
        os.kill(os.getpid(), 9)
    return "alive"


def devour(_):
    return len(bytearray(1 << 40))


def shout(number):
    print("noise on standard output")  # noqa: T201
    return number


def loaded(_):
    hook = {"megatron_eureka", "megatron_eureka.cpu_wheels"}  # of every interpreter of .venv, see tools/setup
    ours = {name for name in sys.modules if name.partition(".")[0] == "megatron_eureka"} - hook
    return sorted(set(sys.modules) & {"torch", "transformers", "numpy"} | ours)

"""The command line with a fault in one rank: FAULT="where:call:rank:what" happens at the n-th call of a function.

FAULT="rope" is one of all ranks.

Started by tests in place of `python -m megatron_eureka`; everything else is the real program.
"""

import os
import signal
import sys
import time

from megatron_eureka import cli
from megatron_eureka.cli import train as command
from megatron_eureka.launch import elastic


def target(where: str):
    """(owner, attribute) of the function in which the fault happens."""
    if where == "generate":
        from megatron_eureka.engines.colocated import ColocatedEngine

        return ColocatedEngine, "generate"
    if where == "update":
        from megatron_eureka.train import grpo

        return grpo, "update"
    if where == "fit":
        from megatron_eureka.train import sft

        return sft, "fit"
    if where == "vllm":
        from megatron_eureka.engines import colocated

        return colocated.LLM, "enqueue"
    if where == "save":  # the files are written, the folder does not have its final name yet
        from megatron_eureka.train import checkpoint

        return checkpoint.dist_checkpointing, "save"
    raise ValueError(where)


def act(what: str) -> None:
    """Die, raise or hang."""
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "raise":
        raise RuntimeError("a fault was asked for")
    if what == "full":
        raise OSError(28, "No space left on device")
    time.sleep(600)


def turn_slower() -> None:
    """The trainer's RoPE turns at half the speed, as if config.json scaled it for the engine alone."""
    from megatron_eureka.train import session

    original = session.open_run

    def open_run(*args, **kwargs):
        run = original(*args, **kwargs)
        for chunk in run.policy.model:
            chunk.language_model.rotary_pos_emb.inv_freq.mul_(0.5)
        return run

    session.open_run = open_run


def install(fault: str) -> None:
    if fault == "rope":
        return turn_slower()
    where, call, rank, what = fault.split(":")
    if os.environ.get("RANK") != rank:
        return
    owner, name = target(where)
    original, calls = getattr(owner, name), [0]

    def faulty(*args, **kwargs):
        calls[0] += 1
        due = calls[0] == int(call)
        if due and where != "save":
            act(what)
        result = original(*args, **kwargs)
        if due and where == "save":
            act(what)
        return result

    setattr(owner, name, faulty)


if __name__ == "__main__":
    if elastic.is_rank():
        original_run_rank = command.run_rank
        command.run_rank = lambda body: original_run_rank(lambda: (install(os.environ["FAULT"]), body()))
    else:
        original_launch = command.launch_ranks
        command.launch_ranks = lambda arguments, num_ranks: original_launch(arguments, num_ranks, "tests.train.faulty")
    sys.argv[0] = "megatron-eureka"
    cli.main()

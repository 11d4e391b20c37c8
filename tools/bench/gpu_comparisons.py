"""Numbers of one variant against those of the fp32 run on the CPU: what is compared, how closely, and why."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from tools.bench.gpu_variants import Variant

Results = dict[str, dict[str, torch.Tensor]]  # program -> quantity -> numbers
PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    status: str  # passed, failed or skipped
    reason: str  # of the tolerance; of a skip or a failure to run, its cause
    value: float | None = None  # the difference found; None when it is no number
    tolerance: float | None = None

    def to_dict(self) -> dict:
        return asdict(self)


def max_abs(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest absolute difference."""
    return float((got.double() - expected.double()).abs().max())


def max_rel(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over the expected number."""
    return float(((got.double() - expected.double()).abs() / expected.double().abs()).max())


def norm_rel(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm of what was expected."""
    return float((got.double() - expected.double()).norm() / expected.double().norm())


def mean_abs(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Mean absolute difference."""
    return float((got.double() - expected.double()).abs().mean())


@dataclass(frozen=True)
class Quantity:
    """What is compared of a program, and how."""

    program: str
    name: str
    metric: Callable[[torch.Tensor, torch.Tensor], float]
    fp32: float  # tolerance between two fp32 programs
    bf16: tuple[float, float]  # least and largest tolerance in bf16; between them the CPU's own error decides
    bound: tuple[str, Callable] | None = None  # another quantity, and a metric of it, that bounds this one's bf16 error

    @property
    def label(self) -> str:
        return f"{self.program}/{self.name}"


# fp32: at least ten times of what two cuts of the same batch differ by on a CPU (the "cpu fp32, small rows" lines of a
# report). bf16: the least tolerance is for numbers whose error is small by luck; the largest one is well below what the
# number moves by in the program, so that a wrong program cannot hide behind an inexact yardstick.
QUANTITIES = (
    Quantity("model", "logprobs", max_abs, 1e-4, (0.05, 0.4)),
    Quantity("model", "entropies", max_abs, 5e-5, (0.01, 0.1)),
    Quantity("model", "loss", max_abs, 2e-5, (0.005, 0.1), ("logprobs", mean_abs)),  # |mean error| <= mean |error|
    Quantity("model", "gradients", norm_rel, 5e-5, (0.02, 0.15)),
    Quantity("model", "grad_norm", max_rel, 5e-5, (0.02, 0.15), ("gradients", norm_rel)),  # ||a| - |b|| <= |a - b|
    Quantity("sft", "losses", max_abs, 1e-4, (0.01, 0.2)),
    Quantity("sft", "grad_norms", max_rel, 2e-4, (0.02, 0.2)),
    Quantity("grpo", "old_logprobs", mean_abs, 1e-4, (0.02, 0.4)),
    Quantity("grpo", "losses", max_abs, 2e-5, (0.005, 0.05)),
    Quantity("grpo", "grad_norms", max_rel, 2e-4, (0.02, 0.4)),
    Quantity("grpo", "entropies", max_abs, 5e-5, (0.005, 0.02)),
    Quantity("grpo", "ppo_kl", max_abs, 2e-5, (0.005, 0.02)),
    Quantity("grpo", "engine_kl", max_abs, 2e-5, (0.005, 0.05)),
    Quantity("gspo", "losses", max_abs, 2e-5, (0.005, 0.1)),
    Quantity("gspo", "grad_norms", max_rel, 2e-4, (0.02, 0.4)),
    Quantity("gspo", "kl", norm_rel, 1e-4, (0.02, 0.3)),
    Quantity("cispo", "losses", max_abs, 1e-4, (0.02, 0.6)),  # of terms as large as -A logp
    Quantity("cispo", "grad_norms", max_rel, 2e-4, (0.02, 0.4)),
    Quantity("cispo", "kl", norm_rel, 1e-4, (0.02, 0.3)),
)
RL_PROGRAMS = ("grpo", "gspo", "cispo")
BF16_FACTOR = 3.0
FP32_REASON = (
    "two correct fp32 programs that sum in another order (no TF32): at least ten times what two cuts of the batch "
    "differ by on a CPU"
)
BF16_REASON = (
    "bf16 has no fixed error: {factor:g} times the error {error:.2g} that the same program has in bf16 on this "
    "machine's CPU{via}, both against fp32 on the CPU; not below {least:g} nor above {most:g}"
)
RATIO_REASON = "right after a rollout the ratio of new to old probabilities is 1, bitwise, under the same rows"
RATIO = "/".join(RL_PROGRAMS) + "/first_ratio"
CHECKPOINT_REASON = "parameters that differ after loading a converted checkpoint under this layer spec: none may"
CHECKPOINT = "model/checkpoint"


def compare(variant: Variant, got: Results, reference: Results, yardstick: Results | None) -> list[Check]:
    """All checks of a variant.

    Args:
        reference: of fp32 on the CPU.
        yardstick: of bf16 on the CPU; needed for bf16 variants.
    """
    checks = [_compare_one(quantity, variant, got, reference, yardstick) for quantity in QUANTITIES]
    deviation = max(float(got[program]["first_ratio"].abs().max()) for program in RL_PROGRAMS)
    differing = float(got["model"]["checkpoint"])
    return [
        *checks,
        judge(f"{RATIO} [{variant.name}]", deviation, 0.0, RATIO_REASON),
        judge(f"{CHECKPOINT} [{variant.name}]", differing, 0.0, CHECKPOINT_REASON),
    ]


def _compare_one(
    quantity: Quantity, variant: Variant, got: Results, reference: Results, yardstick: Results | None
) -> Check:
    name = f"{quantity.label} [{variant.name}]"
    expected = reference[quantity.program][quantity.name]
    value = quantity.metric(got[quantity.program][quantity.name], expected)
    if variant.dtype == "fp32":
        return judge(name, value, quantity.fp32, FP32_REASON)
    assert yardstick is not None, "bf16 variants are compared with bf16 on the CPU"
    other, metric = quantity.bound or (quantity.name, quantity.metric)
    error = metric(yardstick[quantity.program][other], reference[quantity.program][other])
    least, most = quantity.bf16
    tolerance = min(max(BF16_FACTOR * error, least), most)
    via = f" in {quantity.program}/{other}, which bounds this one" if quantity.bound else ""
    return judge(
        name, value, tolerance, BF16_REASON.format(factor=BF16_FACTOR, error=error, via=via, least=least, most=most)
    )


def judge(name: str, value: float, tolerance: float, reason: str) -> Check:
    """Passed if the value is a number within the tolerance."""
    if not math.isfinite(value):
        return Check(name, FAILED, f"the difference is {value}; {reason}", None, tolerance)
    return Check(name, PASSED if value <= tolerance else FAILED, reason, value, tolerance)


def skipped(variant: Variant, why: str) -> list[Check]:
    """All checks of a variant that cannot run here, by name."""
    labels = [quantity.label for quantity in QUANTITIES] + [RATIO, CHECKPOINT]
    return [Check(f"{label} [{variant.name}]", SKIPPED, why) for label in labels]

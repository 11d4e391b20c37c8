"""Which options may differ when a run goes on from a checkpoint, and which do."""

from __future__ import annotations

import yaml

from megatron_eureka.config.renamed import renamed

# They change how long a run is, what it writes and how fast it is.
MAY_CHANGE = (
    "algorithm.correction.alarm",
    "algorithm.correction.on_mismatch",
    "checkpoint.",
    "data.image_cache_mib",
    "evaluation.",
    "launch.",
    "logging.",
    "parallel.",  # the checkpoint holds its layout and refuses another one itself
    "reward.on_failure",
    "reward.timeout_s",
    "reward.workers",
    "rollout.gpu_memory_utilization",
    "rollout.kv_cache_mib",
    "rollout.max_num_seqs",
    "rollout.sync_bucket_mib",
    "train.logprob_chunk_",
    "train.steps",
)


def changed_options(before: str, now: str) -> list[str]:
    """Differences that would make another run of it, one text an option.

    Args:
        before, now: resolved configs, YAML.
    """
    old, new = (_flat(yaml.safe_load(text)) for text in (before, now))
    return [
        f"{name}: {old.get(name)!r} before, {new.get(name)!r} now"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and not name.startswith(MAY_CHANGE)
    ]


def _flat(tree: dict, prefix: str = "") -> dict:
    """Nested options by their dotted names."""
    flat = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: renamed(name, value)}
    return flat

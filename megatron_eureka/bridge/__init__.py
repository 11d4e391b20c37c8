"""From the trainer's shards to full tensors, for rollout engines and for export."""

from megatron_eureka.bridge.buckets import Bucket, Owned, Piece, plan_buckets
from megatron_eureka.bridge.source import ShardedSource

__all__ = ["Bucket", "Owned", "Piece", "ShardedSource", "plan_buckets"]

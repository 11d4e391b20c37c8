"""RMSNorm for the local spec: torch's, with the mark that Megatron-Core's sequence parallelism looks for."""

import torch
from megatron.core.transformer.transformer_config import TransformerConfig


class RMSNorm(torch.nn.RMSNorm):
    """Under sequence parallelism each rank normalises its own tokens, so the weight's gradient is summed over TP."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-6, **_):
        device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else None
        super().__init__(hidden_size, eps=eps, device=device, dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel

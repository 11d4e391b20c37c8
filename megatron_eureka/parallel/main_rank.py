"""What one rank does for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed as dist


def run_on_main(action: Callable[[], Any], for_all: bool = False) -> Any:
    """Do something on rank 0; what it raises as ValueError, every rank raises.

    Returns:
        on rank 0 the result; on the other ranks the same with `for_all`, else None.
    """
    result, box = None, [None, None]
    if dist.get_rank() == 0:
        try:
            result = action()
            box = [None, result if for_all else None]
        except ValueError as error:
            box = [str(error), None]
    dist.broadcast_object_list(box, src=0)
    if box[0] is not None:
        raise ValueError(box[0])
    return box[1] if for_all else result

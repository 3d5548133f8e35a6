"""Independent random streams that all derive from a run's one seed.

Every random choice of a run (initial weights, scoring images, tie breaks, data order ...) draws
from a stream of its own, named by its purpose. Changing how often one of them draws moves none of
the others, and nothing touches torch's global generator.
"""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """A CPU generator for the stream `purpose` (and `index`, an epoch say) of the run with `seed`.

    On the CPU whatever the run's device, so that CPU and GPU runs make the same choices.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

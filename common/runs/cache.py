"""Trained networks that several runs need: trained once, kept beside the grid's results.

One folder for all that starts from the same weights in the same way (`identity.json` says which),
one file a network. Each file is there whole or not at all, and carries its checksum: what is
missing or damaged is computed again. The folder may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from common.base.files import write_atomically
from common.pruning import Masks
from common.results.run_folder import write_json

State = dict[str, Tensor]
DIGEST = hashlib.sha256().digest_size


def short_hash(identity: object) -> str:
    """Eight characters that stand for `identity` (anything JSON can hold)."""
    text = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


class NetworkCache:
    """The networks of one `identity` below `root`; `name` is the readable part of the folder's."""

    def __init__(self, root: Path, name: str, identity: Mapping[str, object]) -> None:
        self.folder = root / f"{name}_{short_hash(identity)}"
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "identity.json", identity)

    def load(self, name: str) -> dict | None:
        """What was saved as `name`; None where it is missing or damaged."""
        try:
            content = (self.folder / f"{name}.pt").read_bytes()
        except OSError:
            return None
        checksum, content = content[:DIGEST], content[DIGEST:]
        if hashlib.sha256(content).digest() != checksum:
            return None
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)

    def save(self, name: str, content: Mapping[str, object]) -> None:
        """Keep tensors and plain values as `name`."""
        memory = io.BytesIO()
        torch.save(dict(content), memory)
        whole = memory.getvalue()
        checksum = hashlib.sha256(whole).digest()
        write_atomically(self.folder / f"{name}.pt", lambda p: p.write_bytes(checksum + whole))

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """One process at a time; the others wait, and then find what the first one saved.

        The lock ends with its process. Where a file system has no locks, two may compute the same.
        """
        with open(self.folder / f".{name}.lock", "w") as file:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def copy_state(model: torch.nn.Module) -> State:
    """The model's weights and buffers as they are now, on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def packed(state: State, masks: Masks) -> State:
    """The state with only the kept weights of each mask, in one dimension."""
    return {n: v[masks[n].cpu()] if n in masks else v for n, v in state.items()}


def unpacked(state: State, masks: Masks) -> State:
    """`packed` undone; pruned weights are zero."""
    full = dict(state)
    for name, mask in masks.items():
        full[name] = torch.zeros(mask.shape, dtype=state[name].dtype)
        full[name][mask] = state[name]
    return full

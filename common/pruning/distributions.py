"""How many weights each layer keeps when the method, not the ranking, decides.

A distribution takes the layers' shapes and the number of weights to keep, and returns a number for
each layer; the numbers add up to it exactly and none exceeds its layer. In `global` scope there is
none: all weights compete in one ranking.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

Shapes = Mapping[str, Sequence[int]]
Distribution = Callable[[Shapes, int], dict[str, int]]

# Su et al. keep this share of the last linear layer at every sparsity.
SMART_RATIO_LAST_LAYER = 0.3


def uniform(shapes: Shapes, keep: int) -> dict[str, int]:
    """The same density in every layer."""
    return _apportion(shapes, keep, dict.fromkeys(shapes, 1.0))


def erk(shapes: Shapes, keep: int) -> dict[str, int]:
    """Erdős-Rényi kernel: density in proportion to the sum of a weight's dimensions over their
    product (Evci et al. 2020, app. A); layers that would pass 1 are dense, the rest is rescaled."""
    return _apportion(shapes, keep, {n: sum(s) / math.prod(s) for n, s in shapes.items()})


def smart_ratio(shapes: Shapes, keep: int) -> dict[str, int]:
    """Smart ratio: density of layer l of L in proportion to (L-l+1)^2 + (L-l+1), the last layer at
    0.3 (Su et al. 2020, section 4.2); where the others cannot take the rest, the last takes it."""
    *others, last = shapes
    depth = len(shapes)
    ratios = {name: (depth - l) ** 2 + (depth - l) for l, name in enumerate(others)}
    size = math.prod(shapes[last])
    room = sum(math.prod(shapes[name]) for name in others)
    kept_last = min(max(round(SMART_RATIO_LAST_LAYER * size), keep - room), keep)
    counts = _apportion({name: shapes[name] for name in others}, keep - kept_last, ratios)
    return {**counts, last: kept_last}


DISTRIBUTIONS: dict[str, Distribution] = {
    "uniform": uniform,
    "erk": erk,
    "smart_ratio": smart_ratio,
}


def _apportion(shapes: Shapes, keep: int, ratios: Mapping[str, float]) -> dict[str, int]:
    """`keep` weights over the layers, densities in proportion to `ratios` and none above 1.

    Layers whose density would exceed 1 are kept whole and the others share what is left; then
    largest remainders make the numbers whole.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    whole: set[str] = set()
    while True:
        free = {name: ratios[name] * size for name, size in sizes.items() if name not in whole}
        left = keep - sum(sizes[name] for name in whole)
        scale = left / sum(free.values()) if free else 0.0
        full = {name for name in free if scale * ratios[name] > 1}
        if not full:
            break
        whole |= full
    quotas = {n: sizes[n] if n in whole else scale * free[n] for n in sizes}
    counts = {name: min(math.floor(quota), sizes[name]) for name, quota in quotas.items()}
    by_remainder = sorted(sizes, key=lambda name: counts[name] - quotas[name])
    missing = keep - sum(counts.values())
    while missing > 0:
        for name in by_remainder:
            if missing and counts[name] < sizes[name]:
                counts[name] += 1
                missing -= 1
    return counts

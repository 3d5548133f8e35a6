"""How many weights each layer keeps when the method, not the ranking, decides.

A distribution takes the layers' shapes, the number of weights to keep and how many each layer has
left, and returns a number for each layer; the numbers add up to it exactly and none exceeds what is
left. In `global` scope there is none: all weights compete in one ranking.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

Shapes = Mapping[str, Sequence[int]]
Counts = Mapping[str, int]
Distribution = Callable[[Shapes, int, Counts], dict[str, int]]

# Su et al. keep this share of the last linear layer at every sparsity.
SMART_RATIO_LAST_LAYER = 0.3


def uniform(shapes: Shapes, keep: int, left: Counts) -> dict[str, int]:
    """The same density in every layer."""
    return _apportion(shapes, keep, left, dict.fromkeys(shapes, 1.0))


def erk(shapes: Shapes, keep: int, left: Counts) -> dict[str, int]:
    """Erdős-Rényi kernel: density in proportion to the sum of a weight's dimensions over their
    product (Evci et al. 2020, app. A); layers that would pass 1 are dense, the rest is rescaled."""
    ratios = {name: sum(shape) / math.prod(shape) for name, shape in shapes.items()}
    return _apportion(shapes, keep, left, ratios)


def smart_ratio(shapes: Shapes, keep: int, left: Counts) -> dict[str, int]:
    """Smart ratio: density of layer l of L in proportion to (L-l+1)^2 + (L-l+1), the last layer at
    0.3 (Su et al. 2020, section 4.2); where the others cannot take the rest, the last takes it."""
    *others, last = shapes
    depth = len(shapes)
    ratios = {name: (depth - l) ** 2 + (depth - l) for l, name in enumerate(others)}
    wanted = min(round(SMART_RATIO_LAST_LAYER * math.prod(shapes[last])), left[last], keep)
    kept_last = max(wanted, keep - sum(left[name] for name in others))
    counts = _apportion({n: shapes[n] for n in others}, keep - kept_last, left, ratios)
    return {**counts, last: kept_last}


def igq(shapes: Shapes, keep: int, left: Counts) -> dict[str, int]:
    """Ideal gas quotas: density 1 / (1 + f n) of a layer of n weights, as if each were gas in a
    cylinder of length and section such that one force f compresses them all (Vysogorets and Kempe
    2023, section 4.2)."""
    from scipy.optimize import brentq  # which takes half a second to import

    sizes = [math.prod(shape) for shape in shapes.values()]

    def surplus(log_force: float) -> float:
        return sum(n / (1 + math.exp(log_force) * n) for n in sizes) - keep

    # Nothing is compressed at the one end, next to nothing is left at the other.
    force = math.exp(brentq(surplus, -60, 60)) if 0 < keep < sum(sizes) else 0.0
    ratios = {name: 1 / (1 + force * n) for name, n in zip(shapes, sizes, strict=True)}
    return _apportion(shapes, keep, left, ratios)


DISTRIBUTIONS: dict[str, Distribution] = {
    "uniform": uniform,
    "erk": erk,
    "igq": igq,
    "smart_ratio": smart_ratio,
}


def _apportion(
    shapes: Shapes, keep: int, left: Counts, ratios: Mapping[str, float]
) -> dict[str, int]:
    """`keep` weights over the layers, densities in proportion to `ratios`, and of no layer more
    than it has left.

    Layers that would keep more are kept as they are and the others share what is missing; then
    largest remainders make the numbers whole.
    """
    shares = {name: ratios[name] * math.prod(shape) for name, shape in shapes.items()}
    quotas: dict[str, float] = {}
    while len(quotas) < len(shares):
        free = {name: share for name, share in shares.items() if name not in quotas}
        scale = (keep - sum(quotas.values())) / sum(free.values())
        full = {name: left[name] for name, share in free.items() if scale * share > left[name]}
        quotas |= full or {name: scale * share for name, share in free.items()}
    counts = {name: min(math.floor(quotas[name]), left[name]) for name in shares}
    by_remainder = sorted(shares, key=lambda name: counts[name] - quotas[name])
    missing = keep - sum(counts.values())
    while missing > 0:
        for name in by_remainder:
            if missing and counts[name] < left[name]:
                counts[name] += 1
                missing -= 1
    return counts

"""How many weights are kept, at the end and on the way there."""

from __future__ import annotations

SCHEDULES = ("exponential", "linear")


def keep_count(total: int, sparsity: float) -> int:
    """How many of `total` weights remain when the fraction `sparsity` is removed."""
    return round((1 - sparsity) * total)


def density_after(step: int, steps: int, density: float, schedule: str) -> float:
    """The density after round `step` of `steps` (1-based) on the way from 1 to `density`.

    `exponential`: density^(step/steps), every round removes the same share of what is left
    (Tanaka et al. 2020, alg. 1); `linear`: every round removes the same number.
    """
    if step == steps:
        return density
    if schedule == "exponential":
        return density ** (step / steps)
    if schedule == "linear":
        return 1 - (1 - density) * step / steps
    raise ValueError(f"schedule={schedule!r} is not known; choose from: {', '.join(SCHEDULES)}")

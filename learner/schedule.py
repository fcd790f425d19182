"""Learning rates by step."""

from __future__ import annotations

import math
from collections.abc import Callable


def constant(share: float, floor: float) -> float:
    """1 throughout."""
    return 1.0


def linear(share: float, floor: float) -> float:
    """A straight line from 1 to `floor`."""
    return floor + (1 - floor) * (1 - share)


def cosine(share: float, floor: float) -> float:
    """Half a cosine from 1 to `floor`. Source: SGDR without restarts, arXiv 1608.03983."""
    return floor + (1 - floor) * (0.5 * (1 + math.cos(math.pi * share)))


DECAYS: dict[str, Callable[[float, float], float]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
}
"""What is left of the learning rate after a share of the schedule, in 0..1."""


def learning_rate_at(
    step: int, *, schedule: str, peak: float, warmup_steps: int, steps: int | None, floor: float
) -> float:
    """Linear warm-up to `peak`, times the decay over `steps` to `floor` (a share of `peak`); `step` counts from 0.

    Both begin at the first step. From `steps` on the rate stays what it is; None: nothing decays.
    """
    warmup = min(1.0, (step + 1) / max(1, warmup_steps))
    share = min(1.0, step / steps) if steps else 0.0
    return peak * warmup * DECAYS[schedule](share, floor)

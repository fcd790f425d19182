"""Learning rates by step."""

from __future__ import annotations

import math


def warmup_cosine(step: int, *, peak: float, warmup_steps: int, steps: int) -> float:
    """Linear warm-up to `peak` times a cosine from 1 to 0.05 over `steps`; `step` counts from 0."""
    warmup = min(1.0, (step + 1) / max(1, warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
    return peak * warmup * (0.05 + 0.95 * cosine)

"""Which of several evaluations is the best."""

from __future__ import annotations


class Standing:
    """Which evaluation is the best so far; an equal one that comes later is no better."""

    def __init__(self) -> None:
        self.step: int | None = None
        self.value = float("-inf")
        self.num_since = 0
        """Evaluations since the best one."""

    def add(self, step: int, value: float | None) -> bool:
        """Whether the newest evaluation is the best; `value`: None where it could not be estimated."""
        if value is None or value <= self.value:
            self.num_since += self.step is not None
            return False
        self.step, self.value, self.num_since = step, value, 0
        return True

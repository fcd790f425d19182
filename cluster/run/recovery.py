"""How often a run may go on by itself after the loss of its learner or controller. Knows no Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class RunLost(RuntimeError):
    """What a run cannot do without, its learner or its controller, died or hangs; its checkpoints are there.

    Everything else that ends a run is a verdict about its settings, its model or its disk, which the same again
    would meet again: that is Halt, or an error of another type.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a controller goes on from."""

    checkpoint: Path | None = None
    """None: from the beginning."""
    num_recoveries: int = 0
    """Of this command."""
    notes: Sequence[str] = ()
    """What the run's log and events are to say of it."""
    removed: frozenset[str] = frozenset()
    """Ids of problems that the checkpoint knows and this command does not: never asked."""
    repaired: frozenset[str] = frozenset()
    """Ids of problems that are other than the checkpoint knows them: no longer set aside."""
    unjudged: Sequence[Mapping[str, Any]] = ()
    """Problems that were set aside since, before the training; as a checkpoint keeps them."""


class Recoveries:
    """Counts those of one command; `limit` of them may follow each other without a new checkpoint between."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._in_a_row = 0
        self._step = -1
        self.num = 0

    def begin(self, loss: RunLost, step: int) -> None:
        """One more, from the checkpoint of `step`. Raises RuntimeError where that is one too many."""
        if step > self._step:
            self._in_a_row = 0
        if self._in_a_row == self._limit:
            raise RuntimeError(
                f"{loss}; train.max_recoveries = {self._limit}"
                + (" times it went on without reaching a new checkpoint" if self._limit else "")
            ) from loss
        self._in_a_row += 1
        self._step = step
        self.num += 1

"""Which groups are trained on and which are held out: engines and verifiers hand in both."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.fleet.stored import JudgedGroup, StoredGroup, StoredPiece
from cluster.run.arrivals import Arrivals
from cluster.run.held_out import HeldOut, is_held_out


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Routes:
    """Every group to where it belongs, by its number."""

    trained: Arrivals
    held_out: HeldOut

    def receive(self, worker: str, pieces: list[StoredPiece]) -> None:
        for piece in pieces:
            self._of(piece).receive(worker, piece)

    def accept(self, group: JudgedGroup) -> None:
        self._of(group.stored).accept(group)

    def give_back(self, group: StoredGroup, error: str) -> None:
        self._of(group).give_back(group, error)

    def release(self, groups: list[StoredGroup]) -> None:
        """Of one batch of samples, which may have groups of both kinds."""
        for of in (self.trained, self.held_out):
            if part := [group for group in groups if self._of(group) is of]:
                of.release(part)

    def _of(self, group: StoredPiece | StoredGroup) -> Arrivals | HeldOut:
        return self.held_out if is_held_out(group) else self.trained

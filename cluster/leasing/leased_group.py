"""One group whose samples are being drawn: which of them are with whom, received, or still to be leased."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from actors.types import Piece

CONTROLLER = "controller"


@dataclass(slots=True)
class LeaseRecord:
    """Who has a piece, since when (seconds on the caller's clock), under which version or newer."""

    piece: Piece
    worker: str
    version: int
    since_s: float


@dataclass(slots=True)
class LeasedGroup:
    """A group of which at least one piece is leased or received."""

    version: int
    """The oldest that one of its pieces was leased under."""
    since_s: float
    """When its first piece was leased."""
    rest: list[tuple[int, int]]
    """What is to be leased: first sample and the one behind the last of each range; ascending, and none touches another."""
    pieces: dict[int, LeaseRecord] = field(default_factory=dict)
    """By first sample."""

    @property
    def is_received(self) -> bool:
        """The controller has all of its samples."""
        return not self.rest and all(record.worker == CONTROLLER for record in self.pieces.values())

    def take(self, record: LeaseRecord) -> None:
        """A piece of the rest is leased."""
        piece = record.piece
        place = next(at for at, (_, stop) in enumerate(self.rest) if piece.stop <= stop)
        start, stop = self.rest[place]
        assert start <= piece.start
        left = [(start, piece.start), (piece.stop, stop)]
        self.rest[place : place + 1] = [(first, last) for first, last in left if first < last]
        self.pieces[piece.start] = record

    def give_back(self, piece: Piece) -> None:
        """A piece is to be leased again."""
        del self.pieces[piece.start]
        start, stop = piece.start, piece.stop
        place = bisect_left(self.rest, (start, stop))
        if place < len(self.rest) and self.rest[place][0] == stop:
            stop = self.rest.pop(place)[1]
        if place and self.rest[place - 1][1] == start:
            place -= 1
            start = self.rest.pop(place)[0]
        self.rest.insert(place, (start, stop))

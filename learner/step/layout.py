"""Where the sequences of a micro-batch lie, and which positions look at which.

A micro-batch is a line of positions. A *segment* is a stretch of it within which attention is causal.
A segment may continue another one, its *prefix*: the completions of a group continue the one copy of
their prompt. A position sees its own segment up to itself, and all of the prefix.

An attention kernel computes *tiles*: rectangles, in which every query sees every key, and squares,
in which query i sees the keys 0 to i. What a position sees is a union of tiles without overlap.

Shapes: `G` segments; a tile has `B` pieces of `Q` queries and `K` keys, shorter ones padded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

NONE = -1
"""The prefix of a segment that continues nothing."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Places:
    """Positions of the line in a padded [B, L] block: `positions[i]` stands at `slots[i]` of the flat block."""

    positions: torch.Tensor  # int64 [n]
    slots: torch.Tensor | None  # int64 [n]; None: the block has no padding
    shape: tuple[int, int]
    stretch: slice | None
    """The positions as a slice of the line, where they are one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tile:
    """Pieces of attention that one kernel call computes."""

    queries: Places  # [B, Q]
    keys: Places  # [B, K]; without padding where the tile is a rectangle
    is_causal: bool
    is_first: bool
    """No tile before it has the same queries. The first tiles together have every position of every segment once."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class Layout:
    """The segments of a micro-batch. Positions in no segment are padding; they see nothing and are seen by nobody."""

    starts_G: np.ndarray  # int64, into the line
    lengths_G: np.ndarray  # int64, at least 1
    prefixes_G: np.ndarray  # int64, a segment's number, or NONE; a prefix continues nothing itself
    num_positions: int
    _tiles: dict[int | None, tuple[Tile, ...]] = field(default_factory=dict)

    @classmethod
    def of_rows(cls, num_rows: int, row_length: int) -> Layout:
        """Every row of a full [R, L] block is a sequence."""
        return cls(
            starts_G=np.arange(num_rows) * row_length,
            lengths_G=np.full(num_rows, row_length),
            prefixes_G=np.full(num_rows, NONE),
            num_positions=num_rows * row_length,
        )

    @property
    def has_prefixes(self) -> bool:
        return bool((self.prefixes_G != NONE).any())

    @property
    def is_line(self) -> bool:
        """The segments follow one another and leave no position out."""
        ends = np.cumsum(self.lengths_G)
        return bool((self.starts_G == ends - self.lengths_G).all()) and int(ends[-1]) == self.num_positions

    @property
    def prefix_lengths_G(self) -> np.ndarray:
        return np.where(self.prefixes_G == NONE, 0, self.lengths_G[self.prefixes_G])

    def tiles(self, window: int | None = None) -> tuple[Tile, ...]:
        """Attention in which a position sees itself and the `window` - 1 positions of its sequence before it."""
        if window is not None and int((self.prefix_lengths_G + self.lengths_G).max()) <= window:
            window = None
        if window not in self._tiles:
            self._tiles[window] = tuple(_batched(self._pieces(window)))
        return self._tiles[window]

    def _pieces(self, window: int | None) -> Iterator[_Piece]:
        starts, lengths, prefixes = self.starts_G.tolist(), self.lengths_G.tolist(), self.prefixes_G.tolist()
        continuations: dict[int, list[np.ndarray]] = {}
        for start, length, prefix in zip(starts, lengths, prefixes, strict=True):
            positions = np.arange(start, start + length)
            size = window or length
            for low in range(0, length, size):
                own = positions[low : low + size]
                yield _Piece(queries=own, keys=own, is_causal=True, turn=0)
                if low:
                    yield from _seen_behind(own, positions[low - size : low], size, turn=1)
            if prefix == NONE:
                continue
            keys = np.arange(starts[prefix], starts[prefix] + lengths[prefix])
            if window is None:
                continuations.setdefault(prefix, []).append(positions)
            else:
                yield from _seen_behind(positions, keys, window, turn=4)
        for prefix, parts in continuations.items():
            keys = np.arange(starts[prefix], starts[prefix] + lengths[prefix])
            yield _Piece(queries=np.concatenate(parts), keys=keys, is_causal=False, turn=4)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Piece:
    queries: np.ndarray
    keys: np.ndarray
    is_causal: bool
    turn: int
    """Pieces of the same turn have no query in common; those of turn 0 have all there are."""


def _seen_behind(queries: np.ndarray, keys: np.ndarray, window: int, turn: int) -> Iterator[_Piece]:
    """What queries see through a window of the keys that end where they begin.

    With keys counted backwards, query i sees those before window - 1 - i. So the last queries see the
    least: in reverse order they and the keys they see make a square in which query i sees keys 0 to i.
    """
    backwards = keys[::-1]
    by_all = max(0, min(len(keys), window - len(queries)))
    if by_all:
        yield _Piece(queries=queries, keys=backwards[:by_all][::-1], is_causal=False, turn=turn)
    rest = backwards[by_all : window - 1]
    seeing = queries[: window - 1 - by_all][::-1]  # of those, query i sees rest[: i + 1]
    side = min(len(seeing), len(rest))
    if side:
        yield _Piece(queries=seeing[:side], keys=rest[:side], is_causal=True, turn=turn + 1)
    if len(seeing) > side and side:
        yield _Piece(queries=seeing[side:][::-1], keys=rest[::-1], is_causal=False, turn=turn + 2)


def _batched(pieces: Iterator[_Piece]) -> Iterator[Tile]:
    """Pieces of one turn and about one size in one tile.

    Squares are padded on the right, where no query looks that counts; keys of a rectangle cannot be.
    A kernel call costs as much as a few thousand scores, and padding is cheap up to that.
    """
    kinds: dict[tuple[int, int], list[_Piece]] = {}
    for piece in pieces:
        kinds.setdefault((piece.turn, 0 if piece.is_causal else len(piece.keys)), []).append(piece)
    for (turn, _), alike in sorted(kinds.items(), key=lambda item: item[0]):
        alike.sort(key=lambda piece: -len(piece.queries))
        while alike:
            longest = len(alike[0].queries)
            shortest = longest - 8 - 2048 // longest
            chosen = [piece for piece in alike if len(piece.queries) >= shortest]
            alike = alike[len(chosen) :]
            yield Tile(
                queries=_places([piece.queries for piece in chosen]),
                keys=_places([piece.keys for piece in chosen]),
                is_causal=chosen[0].is_causal,
                is_first=turn == 0,
            )


def _places(rows: list[np.ndarray]) -> Places:
    lengths = np.array([len(row) for row in rows])
    width = int(lengths.max())
    positions = np.concatenate(rows)
    is_stretch = len(rows) == 1 and bool((np.diff(positions) == 1).all())
    is_full = bool((lengths == width).all())
    slots = np.flatnonzero(np.arange(width) < lengths[:, None])
    return Places(
        positions=torch.from_numpy(positions),
        slots=None if is_full else torch.from_numpy(slots),
        shape=(len(rows), width),
        stretch=slice(int(positions[0]), int(positions[-1]) + 1) if is_stretch else None,
    )

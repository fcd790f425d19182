"""How samples are shared out among engines: evenly, in whole groups as far as that goes. Pure functions.

Every engine gets a share, in samples, that evens out what engines have. Groups go whole, the earliest first, each to the
engine with most of its share left; what then is left of the shares is less than a group each, and the last groups are divided
to fit: with W engines fewer than W of them. Where shares need not be exact, no piece is smaller than a given minimum.
"""

from __future__ import annotations

from collections.abc import Sequence

MIN_PIECE = 8
"""A prompt is computed once for each piece of its group; among so many samples that is little."""
MIN_SHARE_OF_ENGINE = 8
"""A piece is at least this part of what an engine decodes at a time, so that it holds few pieces of many groups."""


def smallest_piece(group_size: int, engine_size: float) -> int:
    """Samples of a group that an engine is given at least, where it decodes `engine_size` sequences at a time."""
    return min(group_size, max(MIN_PIECE, round(engine_size / MIN_SHARE_OF_ENGINE)))


def even_shares(loads: Sequence[int], rooms: Sequence[float], total: int) -> list[int]:
    """Of `total` samples so many for each engine that those with the least load come to the same level, within one.

    `rooms`: the most that each may be given; where that is less in all than `total`, each is given that. Of equals the
    first is given more.
    """
    levels = [load + room for load, room in zip(loads, rooms, strict=True)]

    def shares_at(level: int) -> list[int]:
        return [int(min(max(0, level - load), room)) for load, room in zip(loads, rooms, strict=True)]

    low = min(loads, default=0)
    high = max(loads, default=0) + total
    while low < high:  # the lowest level at which all are given, or the highest
        level = (low + high) // 2
        if sum(shares_at(level)) >= total:
            high = level
        else:
            low = level + 1
    shares = shares_at(low)
    too_many = sum(shares) - total
    for place in reversed(range(len(shares))):
        if too_many > 0 and shares[place] and loads[place] + shares[place] == low <= levels[place]:
            shares[place] -= 1
            too_many -= 1
    return shares


def piece_size(rest: int, share: int, smallest: int) -> int:
    """Of `rest` samples of a group so many for an engine as come nearest to its share, such that neither they nor what is
    left of the group are fewer than `smallest`, but for none.
    """
    possible = [0, rest]
    if rest >= 2 * smallest:
        possible.append(min(max(share, smallest), rest - smallest))
    return min(possible, key=lambda size: (abs(size - share), -size))

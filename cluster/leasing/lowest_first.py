"""A set of numbers of which the lowest is asked for."""

from __future__ import annotations

import heapq
from collections.abc import Iterable


class LowestFirst:
    """Numbers come and go in O(log n)."""

    def __init__(self, numbers: Iterable[int] = ()) -> None:
        self._there = set(numbers)
        self._heap = sorted(self._there)
        """Those that are there, and some that have gone; some twice."""

    @property
    def first(self) -> int | None:
        """The lowest; None: there is none."""
        while self._heap and self._heap[0] not in self._there:
            heapq.heappop(self._heap)
        return self._heap[0] if self._heap else None

    def add(self, number: int) -> None:
        if number not in self._there:
            self._there.add(number)
            heapq.heappush(self._heap, number)

    def discard(self, number: int) -> None:
        self._there.discard(number)

"""Rows of a split that are left out: how many may be, and all of them named at once."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

MAX_SHOWN = 20
"""Of the rows that are named when there are too many."""


@dataclass(slots=True, kw_only=True)
class InvalidRows:
    """Rows of which no problem can be made, that no verifier can judge, or whose prompt is too long."""

    split: str
    limit: int
    """`problems.max_invalid_rows`."""
    num_rows: int = 0
    """All rows that were read."""
    num: int = 0
    reasons: list[str] = field(default_factory=list)
    """Of the first of them, one line each that names the row and the remedy."""

    def add(self, reason: str) -> None:
        """One more row."""
        self.num += 1
        if self.num <= MAX_SHOWN:
            self.reasons.append(reason)

    def settle(self) -> None:
        """Raise ValueError, a line for each row, where there are more than may be; else say how many are left out, on
        standard error.
        """
        if self.num > self.limit:
            lines = list(self.reasons)
            if self.num > len(lines):
                lines.append(f"and {self.num - len(lines)} more such {self.split} rows")
            if self.num > 1:
                lines.append(
                    f"{self.num} {self.split} rows cannot be used: correct them, or set problems.max_invalid_rows="
                    f"{self.num} to leave them out"
                )
            raise ValueError("\n".join(lines))
        if self.num:
            print(
                f"bonfire: {self.num} of {self.num_rows} {self.split} rows left out (problems.max_invalid_rows = "
                f"{self.limit}), the first: {self.reasons[0]}",
                file=sys.stderr,
            )

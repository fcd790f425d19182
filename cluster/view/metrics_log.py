"""metrics.jsonl read while a run appends to it, and its numbers thinned for a chart.

A resume rewinds the file, which then is another one under the same name: it is read anew.

Shapes: `S` steps, `X` points of a chart.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from cluster.run_directory.appended import AppendedLines

MAX_POINTS = 1000
TAIL_BYTES = 1 << 16
"""Of a file's end; a line has about 2,000."""


class MetricsLog:
    """The facts of every step so far; `refresh` reads what is new. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._lines = AppendedLines(path, on_rewound=self._forget)
        self._lock = Lock()
        self._steps: dict[int, dict[str, Any]] = {}
        self._columns: dict[str, np.ndarray] = {}

    def refresh(self) -> None:
        """Read whole lines that were appended; everything where the file was replaced or became shorter."""
        with self._lock:
            for line in self._lines.take():
                try:
                    facts = json.loads(line)
                    step = int(facts["step"])
                except (ValueError, KeyError, TypeError, OverflowError):
                    continue  # a line that a full disk cut off, and the resumed run went on behind
                self._steps[step], self._columns = facts, {}

    def columns(self) -> dict[str, np.ndarray]:
        """Each fact as float64 [S], NaN where a step has none; steps ascend and each is there once."""
        with self._lock:
            if not self._columns and self._steps:
                steps = sorted(self._steps)
                names = sorted({name for facts in self._steps.values() for name in facts} | {"step"})
                self._columns = {
                    name: _numbers([self._steps[step].get(name) for step in steps]) for name in names
                }
            return self._columns

    @property
    def num_steps(self) -> int:
        return len(self._steps)

    def _forget(self) -> None:
        self._steps, self._columns = {}, {}


def last_facts(path: Path) -> dict[str, Any]:
    """The facts of the last whole line, without reading those before it; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            facts = json.loads(line)
            return {**facts, "step": int(facts["step"])}
        except (ValueError, KeyError, TypeError, OverflowError):
            continue
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """Series over steps, thinned so that a chart stays fast; JSON by `plain`."""

    steps_X: np.ndarray
    """The last step of each point."""
    mean: dict[str, np.ndarray]
    low: dict[str, np.ndarray] = field(default_factory=dict)
    high: dict[str, np.ndarray] = field(default_factory=dict)
    steps_per_point: int = 1
    """1: every step is a point. More: a point is their mean, `low` and `high` their smallest and largest."""

    def plain(self) -> dict[str, Any]:
        """As JSON values: lists, with null for what is not a number."""
        return {
            "x": [int(step) for step in self.steps_X],
            "mean": _plain(self.mean),
            "low": _plain(self.low),
            "high": _plain(self.high),
            "steps_per_point": self.steps_per_point,
        }


def thin(
    steps_S: np.ndarray,
    series: Mapping[str, np.ndarray],
    intervals: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    max_points: int = MAX_POINTS,
) -> Curves:
    """Every step as it is, with its interval; beyond `max_points` means of so many steps, with their range."""
    every = max(1, math.ceil(len(steps_S) / max_points))
    if every == 1:
        return Curves(
            steps_X=steps_S,
            mean=dict(series),
            low={name: low for name, (low, _) in intervals.items() if name in series},
            high={name: high for name, (_, high) in intervals.items() if name in series},
        )
    starts = np.arange(0, len(steps_S), every)
    mean, low, high = {}, {}, {}
    for name, value_S in series.items():
        there = np.isfinite(value_S)
        count = np.add.reduceat(there.astype(np.int64), starts)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean[name] = np.add.reduceat(np.where(there, value_S, 0.0), starts) / count
        low[name] = np.minimum.reduceat(np.where(there, value_S, np.inf), starts)
        high[name] = np.maximum.reduceat(np.where(there, value_S, -np.inf), starts)
    last = np.minimum(starts + every, len(steps_S)) - 1
    return Curves(steps_X=steps_S[last], mean=mean, low=low, high=high, steps_per_point=every)


def _numbers(values: list[Any]) -> np.ndarray:
    """Float64 with NaN for null and for what is no number."""
    try:
        return np.array(values, np.float64)
    except (ValueError, TypeError):  # a text among them
        return np.array([float(one) if isinstance(one, int | float) else math.nan for one in values])


def _plain(series: Mapping[str, np.ndarray]) -> dict[str, list[float | None]]:
    """Five digits, which no chart shows more of; null for what is not a number."""
    return {
        name: [float(f"{value:.5g}") if math.isfinite(value) else None for value in values.tolist()]
        for name, values in series.items()
    }

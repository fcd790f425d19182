"""The steps of metrics.jsonl, and the evaluations of held_out.jsonl, each once, while the run adds to the files and may
rewind them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.run_directory.appended import AppendedLines
from cluster.tracking.tracker import Step

NO_QUANTITIES = ("step", "version", "time")
OF_EVALUATION = ("oldest_version", "newest_version", "seconds", "num_problems", "num_tokens")
CURVES = {"pass": "pass_at", "best_of": "best_of", "majority": "majority_at"}
"""Names that every tracker takes, and that the evaluation after the training has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """The newest step that was told of, and when it was done."""

    step: int = 0
    time_s: float = 0.0


class StepReader:
    """Its own place in a file of a line per step."""

    def __init__(
        self,
        path: Path,
        *,
        resumed_from: int,
        since_s: float,
        values_of: Callable[[Mapping[str, Any]], dict[str, float]],
    ) -> None:
        """Steps after `resumed_from` that were done before `since_s` are about to be rewound: they are left out.
        `values_of`: what is told of a line.
        """
        self._lines = AppendedLines(path)
        self._values_of = values_of
        self._resumed_from = resumed_from
        self._since_s = since_s

    def fresh(self, mark: Mark, *, overwrites: bool) -> Iterator[Step]:
        """Steps that are there and were not told of up to `mark`, in the order of the file.

        With `overwrites`, also those that the run did again since: the first of them is no later than the mark's.
        The place moves on as they are taken.
        """
        for line in self._lines.take():
            try:
                facts = json.loads(line)
                step, time_s = int(facts["step"]), float(facts["time"])
            except (ValueError, KeyError, TypeError):  # no line of the run's
                continue
            if step > self._resumed_from and time_s < self._since_s:
                continue
            is_fresh = step > mark.step or (overwrites and time_s > mark.time_s)
            if is_fresh:
                yield Step(step=step, time_s=time_s, values=self._values_of(facts))


def quantities(facts: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a step's facts by the name of their series; of a fact that is a table, each of its own."""
    found: dict[str, float] = {}
    for name, value in facts.items():
        if name in NO_QUANTITIES:
            continue
        if isinstance(value, Mapping):
            found |= {f"{name}/{inner}": one for inner, one in _numbers(value)}
        else:
            found |= {series(name): one for _, one in _numbers({name: value})}
    return found


def held_out_quantities(row: Mapping[str, Any]) -> dict[str, float]:
    """Estimates of an evaluation and differences from the base, with the ends of their intervals."""
    found = {f"held_out/{name}": float(row[name]) for name in OF_EVALUATION if name in row}
    for what, before in (("estimates", ""), ("differences", "difference_")):
        for name, estimate in row.get(what, {}).items():
            metric, _, k = name.partition("@")
            stem = f"held_out/{before}{CURVES.get(metric, metric)}" + (f"_{k}" if k else "")
            found |= {stem + suffix: value for suffix, value in _ends(estimate)}
    return found


def _ends(estimate: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for end, value in _numbers(estimate):
        yield ("" if end == "mean" else f"_{end}"), value


def series(name: str) -> str:
    """`time/` for seconds and what is counted per second, `train/` for all else."""
    return f"time/{name}" if name.endswith("_s") else f"train/{name}"


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, int | float) and math.isfinite(value):
            yield name, float(value)

"""What a tracker is told, and what each of them must be able to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

Outcome = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedRun:
    """What is to be told of, by its own name for it."""

    run_dir: Path
    name: str
    project: str | None
    """None: the tracker's own environment variable says it, or DEFAULT_PROJECT."""
    settings: Mapping[str, Any]
    """By dotted name: plain values, lists of them."""
    settings_toml: str


DEFAULT_PROJECT = "bonfire"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """An optimizer step, as metrics.jsonl has it."""

    step: int
    time_s: float
    """Seconds since the epoch."""
    values: Mapping[str, float]
    """`train/NAME`, or `time/NAME` for seconds and rates, `held_out/NAME` of an evaluation; finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Example groups of a step, a row a sample."""

    step: int
    time_s: float
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the evaluation after the training found."""

    step: int
    """The newest one."""
    time_s: float
    values: Mapping[str, float]
    """`evaluation/MODEL/METRIC_K`, with bounds of the interval as `..._low` and `..._high`."""
    files: Sequence[Path]
    """report.json, and report.png where it was drawn."""


class Tracker(Protocol):
    """A tracker of one run. Any method may raise whatever its library does, and is then called again."""

    overwrites: bool
    """A step that is told of again replaces what was told before (`rewind`); else it is never told of again."""

    def open(self, run: TrackedRun, known_as: str | None) -> str:
        """Begin the run, or go on with the one that is `known_as` what this returned the first time."""

    def rewind(self, step: int) -> None:
        """Forget what comes after `step`; asked only of those that overwrite."""

    def log_steps(self, steps: Sequence[Step]) -> None:
        """At least one, in their order."""

    def log_held_out(self, evaluation: Step) -> None:
        """An evaluation that began with the step, which may be long past."""

    def log_table(self, table: Table) -> None:
        """Of the step that was told of last."""

    def log_report(self, report: Report) -> None: ...

    def close(self, outcome: Outcome) -> None:
        """Return when all that was told has arrived."""

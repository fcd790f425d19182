"""RUN_DIR/tracking.json: under which name each tracker knows the run, and what it was told."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cluster.run_directory.record import write_atomically
from cluster.tracking.steps import Mark

STATE_FILE = "tracking.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What one tracker has taken."""

    known_as: str | None = None
    """Its own name for the run; None: it knows of none yet."""
    mark: Mark = field(default_factory=Mark)
    """Of steps."""
    held_out: Mark = field(default_factory=lambda: Mark(step=-1))
    """Likewise of evaluations while it trains, of which the first is of step 0."""
    report_time_s: float = 0.0
    """When the report was written that it has; 0: it has none."""
    dropped: int = 0
    """Pieces (steps, tables, reports) that it did not take."""


class State:
    """The file, and what the feeds changed since it was written. Thread-safe."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / STATE_FILE
        self._lock = threading.Lock()
        self._is_written = True
        self._told = _read(self._path)

    def told(self, name: str) -> Told:
        with self._lock:
            return self._told.get(name, Told())

    def update(self, name: str, **changes: Any) -> None:
        with self._lock:
            self._told[name] = replace(self._told.get(name, Told()), **changes)
            self._is_written = False

    def write(self) -> None:
        """Raises WriteFailed; the next call tries again."""
        with self._lock:
            if self._is_written:
                return
            text = json.dumps({name: asdict(told) for name, told in self._told.items()}, indent=1)
            write_atomically(self._path, text)
            self._is_written = True


def _read(path: Path) -> dict[str, Told]:
    """Nothing where the file is missing or damaged: each tracker then begins a run anew."""
    try:
        return {
            name: Told(
                **{**told, **{mark: Mark(**told[mark]) for mark in ("mark", "held_out") if mark in told}}
            )
            for name, told in json.loads(path.read_text()).items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}

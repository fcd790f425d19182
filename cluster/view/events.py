"""What happened in a run, from its controller's log: workers lost, replaced, added; checkpoints; warnings."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LOG_FILE = "controller.log"
MAX_READ_BYTES = 4 << 20
"""Of the end of a long log."""
MAX_EVENTS = 500
_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d+ cluster\.(\S+) (.*)")
_KINDS = {"run.saving": "checkpoint", "fleet.elastic": "scaling", "run.controller": "run"}
_LEFT_OUT = ("run.progress", "fleet.ray_cluster")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the log. `step`: the first step that ended after it, by the clock; None before any has."""

    at_s: float
    kind: str
    """checkpoint, scaling, run or warning."""
    text: str
    step: int | None

    @property
    def clock(self) -> str:
        """Hours, minutes and seconds on this machine."""
        return time.strftime("%H:%M:%S", time.localtime(self.at_s))


def read_events(run_dir: Path, steps_S: np.ndarray, times_S: np.ndarray) -> list[Event]:
    """The newest events, oldest first; none without a log. `times_S`: when each step ended, seconds since 1970."""
    try:
        with (run_dir / LOG_FILE).open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - MAX_READ_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    events = []
    for line in lines:
        found = _LINE.match(line)
        if found is None or found[2] in _LEFT_OUT:
            continue
        at_s = time.mktime(time.strptime(found[1], "%Y-%m-%d %H:%M:%S"))
        after = int(np.searchsorted(times_S, at_s))
        step = int(steps_S[min(after, len(steps_S) - 1)]) if len(steps_S) else None
        events.append(Event(at_s=at_s, kind=_KINDS.get(found[2], "warning"), text=found[3], step=step))
    return events[-MAX_EVENTS:]

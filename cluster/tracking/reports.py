"""The evaluation at the end of a run, as numbers under names that every tracker takes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.tracking.tracker import Report

REPORT_FILE, PICTURE = "report.json", "report.png"


def report_time_s(run_dir: Path) -> float:
    """When the run's report was written; 0 without one."""
    try:
        return (run_dir / REPORT_FILE).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def read_report(run_dir: Path, step: int) -> Report:
    """The report of a run whose newest step is `step`. Raises OSError or ValueError."""
    path = run_dir / REPORT_FILE
    written = json.loads(path.read_text())
    cells = written["cells"]
    temperatures = {cell["temperature"] for cell in cells}
    values: dict[str, float] = {}
    for cell in cells:
        at = f"/T{cell['temperature']:g}" if len(temperatures) > 1 else ""
        for name, value in _numbers(cell):
            values[f"evaluation/{cell['model']}{at}/{name}"] = value
    picture = run_dir / PICTURE
    files = [path, *([picture] if picture.exists() else [])]
    return Report(step=step, time_s=path.stat().st_mtime, values=values, files=files)


def _numbers(cell: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Means and bounds of each curve, `pass_at_k` at 16 as `pass_at_16`, and of the facts of the samples."""
    for metric, by_k in cell.items():
        if isinstance(by_k, dict) and by_k and all(k.isdecimal() for k in by_k):
            for k, estimate in by_k.items():
                yield from _estimate(f"{metric.removesuffix('_k')}_{k}", estimate)
    for fact, estimate in cell.get("facts", {}).items():
        yield from _estimate(fact, estimate)


def _estimate(name: str, estimate: dict[str, float | None]) -> Iterator[tuple[str, float]]:
    for end, suffix in (("mean", ""), ("low", "_low"), ("high", "_high")):
        value = estimate.get(end)
        if value is not None and math.isfinite(value):
            yield f"{name}{suffix}", value

"""What a run has written so far."""

from __future__ import annotations

import json
from pathlib import Path


def num_steps(run_dir: Path) -> int:
    """Lines of metrics so far."""
    metrics = run_dir / "metrics.jsonl"
    return metrics.read_text().count("\n") if metrics.is_file() else 0


def stage(run_dir: Path) -> str:
    file = run_dir / "run.json"
    return str(json.loads(file.read_text()).get("stage", "")) if file.is_file() else ""


def checkpoint_at(run_dir: Path, step: int) -> Path:
    return run_dir / "checkpoints" / f"step-{step:06d}"

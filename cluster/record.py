"""What a run leaves on disk, in open formats; every file is whole or absent.

RUN_DIR/config.toml            resolved config            RUN_DIR/metrics.jsonl       a line per step
RUN_DIR/run.json               git commit, seed, address  RUN_DIR/trajectories/*.parquet  a row per group
RUN_DIR/checkpoints/step-N/    model, optimizer, ledger   RUN_DIR/report.json, *.png  the evaluation
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actors.types import ScoredGroup, scored_to_batch

CHECKPOINT = "step-{:06d}"
STATE_FILE = "run_state.json"
RUN_FILE = "run.json"


class RunRecord:
    """The run directory."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.checkpoints_dir = run_dir / "checkpoints"
        self.trajectories_dir = run_dir / "trajectories"
        for directory in (self.checkpoints_dir, self.trajectories_dir):
            directory.mkdir(parents=True, exist_ok=True)

    def append_metrics(self, facts: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl; a number that JSON cannot hold (NaN, infinity) becomes null."""
        with (self.run_dir / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(without_infinities(facts), allow_nan=False) + "\n")

    def write_trajectories(self, step: int, groups: Sequence[ScoredGroup], weights_BN: np.ndarray) -> None:
        """The groups trained in a step, with the weight of each sample, as one Parquet file."""
        batch = scored_to_batch(groups)
        weights = pa.array([list(row) for row in weights_BN], pa.list_(pa.float64()))
        steps = pa.array([step] * len(groups), pa.int64())
        table = pa.Table.from_batches([batch]).append_column("weights", weights).append_column("step", steps)
        write_table_atomically(self.trajectories_dir / f"step-{step:06d}.parquet", table)

    def begin_checkpoint(self, step: int) -> Path:
        """An empty directory to write a checkpoint into; `finish_checkpoint` gives it its name."""
        partial = self.checkpoints_dir / (CHECKPOINT.format(step) + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        return partial

    def finish_checkpoint(self, step: int, state: Mapping[str, Any], *, keep: int) -> Path:
        """Add the run's own state, make everything durable, rename, drop the oldest beyond `keep`."""
        partial = self.checkpoints_dir / (CHECKPOINT.format(step) + ".partial")
        final = self.checkpoints_dir / CHECKPOINT.format(step)
        (partial / STATE_FILE).write_text(json.dumps(dict(state), indent=1))
        for path in [*partial.rglob("*"), partial]:
            _sync(path)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        _sync(self.checkpoints_dir)
        for old in self.checkpoints()[:-keep]:
            shutil.rmtree(old)
        return final

    def checkpoints(self) -> list[Path]:
        """Finished checkpoints, oldest first."""
        return finished_checkpoints(self.run_dir)

    def rewind(self, step: int) -> None:
        """Remove what was recorded after `step`: a resumed run does those steps again."""
        for path in self.trajectories_dir.iterdir():
            if path.suffix == ".partial" or int(path.stem.removeprefix("step-")) > step:
                path.unlink()
        for path in self.checkpoints_dir.glob("step-*"):
            if path.suffix == ".partial" or path.name > CHECKPOINT.format(step):
                shutil.rmtree(path)
        metrics = self.run_dir / "metrics.jsonl"
        if metrics.exists():
            kept = [line for line in metrics.read_text().splitlines() if _step_of(line) <= step]
            write_atomically(metrics, "".join(line + "\n" for line in kept))


def finished_checkpoints(run_dir: Path) -> list[Path]:
    """Checkpoints of a run directory, oldest first; none when it is not there."""
    directories = (run_dir / "checkpoints").glob("step-*")
    return sorted(path for path in directories if path.is_dir() and path.suffix != ".partial")


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The run's state in a checkpoint. Raises ValueError when it is missing or damaged."""
    try:
        return json.loads((checkpoint / STATE_FILE).read_text())
    except (OSError, ValueError) as error:  # not UTF-8, or not JSON
        raise ValueError(
            f"checkpoint {checkpoint} has no readable {STATE_FILE} ({error}): use an older one"
        ) from None


def without_infinities(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts with null for every number that JSON cannot hold (NaN, infinity)."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in facts.items()
    }


def write_atomically(path: Path, text: str) -> None:
    """Write a small file so that a reader sees the old text or the new, never a part."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


def write_table_atomically(path: Path, table: pa.Table, *, row_group_size: int | None = None) -> None:
    """Write a Parquet file so that a reader sees all of it or none."""
    partial = path.with_suffix(".partial")
    pq.write_table(table, partial, compression="zstd", row_group_size=row_group_size)
    os.replace(partial, path)


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return float("inf")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

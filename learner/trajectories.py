"""What a step was trained on, as a file of the run directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actors.arrow_forms import scored_to_batch
from actors.types import ScoredGroup


def write_trajectories(
    path: str | Path, step: int, groups: Sequence[ScoredGroup], weights_BN: np.ndarray
) -> None:
    """Write B groups, with the weight of each of their N samples, as Parquet: SCORED_SCHEMA, `weights` and `step`.

    Raises OSError; a part of the file may be left.
    """
    weights = pa.array([list(row) for row in weights_BN], pa.list_(pa.float64()))
    steps = pa.array([step] * len(groups), pa.int64())
    table = pa.Table.from_batches([scored_to_batch(groups)])
    table = table.append_column("weights", weights).append_column("step", steps)
    pq.write_table(table, path, compression="zstd")

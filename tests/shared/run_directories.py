"""A run directory of a run that is under way, and files in it."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actors.types import ScoredGroup
from cluster.run_directory.record import RUN_FILE, RunRecord
from learner.trajectories import write_trajectories


def write_run(run_dir: Path, **facts: Any) -> Path:
    run_dir.mkdir(parents=True)
    about = {
        "name": run_dir.name, "pid": os.getpid(), "host": socket.gethostname(), "started": time.time(),
        "local": True, "stage": "training", "stage_since": time.time(), "address": "127.0.0.1:1", "job": None,
    }  # fmt: skip
    (run_dir / RUN_FILE).write_text(json.dumps({**about, **facts}))
    return run_dir


def record_trajectories(
    record: RunRecord, step: int, groups: Sequence[ScoredGroup], weights_BN: np.ndarray
) -> None:
    """What learner and controller do together after a step."""
    write_trajectories(record.begin_trajectories(step), step, groups, weights_BN)
    record.finish_trajectories(step)

"""Example groups for a table, from a step's trajectories; prompts and truths from a file that the run's start leaves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.config.tracking import TrackingConfig
from cluster.run_directory.record import write_table_atomically
from cluster.tracking.tracker import Table
from verifiers.types import Problem

PROBLEMS_FILE = "tracking_problems.parquet"
TEXT_CHARS = 4000
COLUMNS = (
    "step",
    "group",
    "problem",
    "prompt",
    "truth",
    "sample",
    "text",
    "score",
    "reward",
    "weight",
    "status",
    "picked",
)
FROM_TRAJECTORIES = ("group", "problem_id", "texts", "scores", "rewards", "weights", "statuses")
BUFFER_BYTES = 1 << 20


def write_problems(run_dir: Path, problems: Iterable[Problem]) -> None:
    """What trajectories do not say: prompt and truth by the problem's id. Raises WriteFailed."""
    rows = [
        {
            "id": problem.id,
            "prompt": "\n".join([*(f"{role}: {text}" for role, text in problem.turns), problem.prompt])[
                :TEXT_CHARS
            ],
            "truth": json.dumps(dict(problem.truth), default=str, ensure_ascii=False)[:TEXT_CHARS]
            if problem.truth
            else "",
        }
        for problem in problems
    ]
    schema = pa.schema([(name, pa.string()) for name in ("id", "prompt", "truth")])
    write_table_atomically(run_dir / PROBLEMS_FILE, pa.Table.from_pylist(rows, schema))


def trajectories_of(run_dir: Path, step: int) -> Path:
    return run_dir / "trajectories" / f"step-{step:06d}.parquet"


def read_examples(run_dir: Path, step: int, config: TrackingConfig) -> Table:
    """The step's first groups, a row a sample. Raises OSError or ValueError where its trajectories are gone."""
    path = trajectories_of(run_dir, step)
    # A file of many long samples is not read whole.
    with pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False) as file:
        batches = file.iter_batches(batch_size=config.num_examples, columns=list(FROM_TRAJECTORIES))
        groups = next(batches).to_pylist()
    asked = _asked(run_dir, sorted({group["problem_id"] for group in groups}))
    rows = [
        row
        for group in groups
        for row in _rows(
            step, group, *asked.get(group["problem_id"], ("", "")), most=config.samples_per_example
        )
    ]
    return Table(step=step, time_s=path.stat().st_mtime, columns=COLUMNS, rows=rows)


def _rows(step: int, group: dict[str, Any], prompt: str, truth: str, *, most: int) -> list[tuple[Any, ...]]:
    """The picked sample, the first of the best score, then by |weight|."""
    picked = int(np.argmax(group["scores"]))
    by_weight = np.argsort(-np.abs(group["weights"]), kind="stable").tolist()
    shown = [picked, *(index for index in by_weight if index != picked)][:most]
    about = (step, group["group"], group["problem_id"], prompt, truth)
    return [
        (
            *about,
            index,
            group["texts"][index][:TEXT_CHARS],
            group["scores"][index],
            group["rewards"][index],
            group["weights"][index],
            group["statuses"][index],
            index == picked,
        )
        for index in shown
    ]


def _asked(run_dir: Path, problem_ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Prompt and truth of each that the file has."""
    path = run_dir / PROBLEMS_FILE
    if not path.exists():
        return {}
    found = pq.read_table(path, filters=[("id", "in", problem_ids)]).to_pylist()
    return {row["id"]: (row["prompt"], row["truth"]) for row in found}

"""What the evaluations leave on disk that a run makes while it trains.

RUN_DIR/held_out.jsonl            a line per evaluation: versions, estimates, intervals, differences
RUN_DIR/held_out/step-N.parquet   a row per problem: rewards, scores and answers of its samples
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actors.types import Judgement
from cluster.run_directory.record import step_of, write_atomically, write_table_atomically

FILE, FOLDER = "held_out.jsonl", "held_out"
SCHEMA = pa.schema(
    [
        ("index", pa.int32()),
        ("problem_id", pa.string()),
        ("rewards", pa.list_(pa.float64())),
        ("scores", pa.list_(pa.float64())),
        ("answers", pa.list_(pa.string())),
        ("statuses", pa.list_(pa.string())),
    ]
)
"""`index`: the problem's place in the test split."""


def read_held_out(run_dir: Path) -> list[dict[str, Any]]:
    """A run's evaluations in their order; none where it has made none. Lines that are damaged are left out."""
    try:
        lines = (run_dir / FILE).read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
            rows.append({**row, "step": int(row["step"]), "estimates": dict(row["estimates"])})
        except (ValueError, KeyError, TypeError):
            continue
    return rows


class HeldOutRecord:
    """The evaluations of a run that goes on from `step`.

    Those that are not over by then are forgotten, and the one of `step` itself, which comes before all that the run does
    next: they are made again.
    """

    def __init__(self, run_dir: Path, *, step: int) -> None:
        self._run_dir = run_dir
        found = read_held_out(run_dir)
        self.rows = [row for row in found if row["step"] < step and row["ended_step"] <= step]
        if self.rows != found:
            self._write()
        kept = {row["step"] for row in self.rows}
        for path in (run_dir / FOLDER).glob("step-*"):
            if path.suffix != ".parquet" or step_of(path) not in kept:
                path.unlink()

    def add(self, row: Mapping[str, Any], judgements: Mapping[int, tuple[str, Judgement]]) -> None:
        """An evaluation; its judgements and the ids of their problems by index. Raises WriteFailed."""
        columns = {
            "index": list(judgements),
            "problem_id": [problem_id for problem_id, _ in judgements.values()],
            **{
                name: [list(getattr(judgement, name)) for _, judgement in judgements.values()]
                for name in ("rewards", "scores", "answers", "statuses")
            },
        }
        path = self._path_of(row["step"])
        path.parent.mkdir(exist_ok=True)
        write_table_atomically(path, pa.table(columns, schema=SCHEMA))
        self.rows.append(dict(row))
        self._write()

    def judgements(self, step: int) -> dict[int, tuple[str, Judgement]]:
        """Those of an evaluation with the ids of their problems, by index; none where none on disk can be read."""
        try:
            table = pq.read_table(self._path_of(step), schema=SCHEMA)
        except (pa.ArrowException, OSError):
            return {}
        return {
            row["index"]: (
                row["problem_id"],
                Judgement(
                    scores=np.array(row["scores"], np.float64),
                    rewards=np.array(row["rewards"], np.float64),
                    statuses=tuple(row["statuses"]),
                    answers=tuple(row["answers"]),
                    latencies_s=np.zeros(len(row["rewards"]), np.float32),
                ),
            )
            for row in table.to_pylist()
        }

    def _path_of(self, step: int) -> Path:
        return self._run_dir / FOLDER / f"step-{step:06d}.parquet"

    def _write(self) -> None:
        text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in self.rows)
        write_atomically(self._run_dir / FILE, text)

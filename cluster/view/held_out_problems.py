"""The held-out problems of a run that is evaluated while it trains: what one of them got, evaluation by evaluation.

Shapes: `E` evaluations of one problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.run_directory.held_out import FOLDER
from cluster.run_directory.record import step_of
from cluster.view.selection import pass_at_k, wilson


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeldOutProblem:
    """One problem over the evaluations that have it."""

    problem_id: str
    steps_E: np.ndarray  # int64
    num_samples_E: np.ndarray  # int64
    num_correct_E: np.ndarray  # int64, samples with reward 1
    reward_E: np.ndarray  # float64, mean over samples

    @property
    def k(self) -> int:
        """The largest that every evaluation has samples for."""
        return int(self.num_samples_E.min())

    @property
    def pass_E(self) -> np.ndarray:
        """pass@k, from c right ones of n samples."""
        return pass_at_k(self.num_samples_E, self.num_correct_E, self.k)

    def chart(self) -> dict[str, Any]:
        """pass@1 and pass@k with Wilson's interval of c of n carried over to k; plain JSON values."""
        low_E, high_E = wilson(self.num_correct_E, self.num_samples_E)
        return {
            "x": self.steps_E.tolist(),
            "ks": [
                {
                    "k": k,
                    "mean": pass_at_k(self.num_samples_E, self.num_correct_E, k).tolist(),
                    "low": (1 - (1 - low_E) ** k).tolist(),
                    "high": (1 - (1 - high_E) ** k).tolist(),
                }
                for k in sorted({1, self.k})
            ],
        }


def held_out_problems(run_dir: Path) -> list[HeldOutProblem]:
    """In the order of the split; none where there is no evaluation. Files that cannot be read are left out."""
    found: dict[tuple[int, str], list[tuple[int, list[float]]]] = {}
    for path in sorted((run_dir / FOLDER).glob("step-*.parquet")):
        try:
            rows = pq.read_table(path, columns=["index", "problem_id", "rewards"]).to_pylist()
        except (pa.ArrowException, OSError):
            continue
        for row in rows:
            found.setdefault((row["index"], row["problem_id"]), []).append((step_of(path), row["rewards"]))
    return [_problem(problem_id, found[index, problem_id]) for index, problem_id in sorted(found)]


def _problem(problem_id: str, evaluations: Sequence[tuple[int, list[float]]]) -> HeldOutProblem:
    rewards = [np.array(one, np.float64) for _, one in evaluations]
    return HeldOutProblem(
        problem_id=problem_id,
        steps_E=np.array([step for step, _ in evaluations], np.int64),
        num_samples_E=np.array([len(one) for one in rewards], np.int64),
        num_correct_E=np.array([int((one == 1).sum()) for one in rewards], np.int64),
        reward_E=np.array([one.mean() for one in rewards]),
    )

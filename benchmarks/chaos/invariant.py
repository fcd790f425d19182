"""Whether every group was trained exactly once: what is on disk as trained, against the ledger of the checkpoint."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from cluster.leasing.ledger import Ledger
from cluster.run_directory.record import finished_checkpoints, read_state


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Groups by number."""

    num_steps: int
    num_trained: int
    lost: list[int]
    """Trained by the ledger, and in no trajectory."""
    duplicated: list[int]
    """In more than one trajectory, or in one and not trained by the ledger."""
    misplaced: list[int]
    """Whose prompt is another than their place in the run's order says."""


def account(run_dir: Path) -> Account:
    """Of a run that ended with a checkpoint of its last step.

    A group is a place in an epoch. So if every group is there once, and groups have the same problem exactly where
    `Ledger.problem_index` says so, then every epoch that is over has trained every problem once.
    """
    state = read_state(finished_checkpoints(run_dir)[-1])
    ledger = Ledger.from_json(state["ledger"])
    below = state["ledger"]["trained_below"]
    by_ledger = {*range(below), *state["ledger"]["trained_above"]}
    on_disk: Counter[int] = Counter()
    problem_of: dict[int, str] = {}
    misplaced = []
    for path in sorted((run_dir / "trajectories").glob("*.parquet")):
        table = pq.read_table(path, columns=["group", "problem_id"])
        for group, problem in zip(*(column.to_pylist() for column in table.columns), strict=True):
            on_disk[group] += 1
            if problem_of.setdefault(ledger.problem_index(group), problem) != problem:
                misplaced.append(group)
    if len(set(problem_of.values())) < len(problem_of):
        misplaced += [group for group in on_disk if ledger.problem_index(group) in problem_of]
    return Account(
        num_steps=state["version"],
        num_trained=len(by_ledger),
        lost=sorted(by_ledger - on_disk.keys()),
        duplicated=sorted(group for group, count in on_disk.items() if count > 1 or group not in by_ledger),
        misplaced=sorted(misplaced),
    )

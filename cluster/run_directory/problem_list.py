"""What a checkpoint knows of the run's problems, and which others it can be gone on with.

A checkpoint holds the id and a digest of every problem, in the run's order. A resumed run may have problems repaired
or removed that no step has trained on; their places in the order stay, so that every other group asks what it would
have asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from verifiers.types import Problem

PROBLEMS_FILE = "problems.parquet"
MAX_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """The problems that a resumed run goes on with."""

    problems: list[Problem]
    """In the order of the checkpoint; one that was removed is there without a prompt, and is never asked."""
    removed: frozenset[str] = frozenset()
    repaired: frozenset[str] = frozenset()

    def describe(self) -> list[str]:
        """Lines for the user; none where nothing changed."""
        return [
            f"{len(ids)} problems that no step has trained on were {what}: {shown(sorted(ids))}"
            for what, ids in (("repaired", self.repaired), ("removed", self.removed))
            if ids
        ]


def shown(ids: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(ids) - MAX_SHOWN} more" if len(ids) > MAX_SHOWN else ""
    return ", ".join(repr(problem_id) for problem_id in ids[:MAX_SHOWN]) + more


def digest(problem: Problem, *, imitated: bool) -> str:
    """Of what a run asks and judges, and, where it is `imitated`, of the demonstration."""
    asked: tuple[Any, ...] = (problem.id, problem.prompt, sorted(problem.truth.items()), *problem.turns)
    if imitated:
        asked += (problem.demonstration,)
    return hashlib.sha256(repr(asked).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def write_problem_list(directory: Path, digests: Mapping[str, str]) -> None:
    table = pa.table({"id": list(digests), "digest": list(digests.values())})
    pq.write_table(table, directory / PROBLEMS_FILE, compression="zstd")


def read_problem_list(directory: Path) -> dict[str, str] | None:
    """Digest by id, in the run's order; None of a checkpoint that has no list. Raises ValueError where it is damaged."""
    path = directory / PROBLEMS_FILE
    if not path.exists():
        return None
    try:
        table = pq.read_table(path, columns=["id", "digest"])
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}): use an older checkpoint") from error
    return dict(zip(table["id"].to_pylist(), table["digest"].to_pylist(), strict=True))


def reconcile(
    saved: Mapping[str, str], problems: Sequence[Problem], trained: Collection[str], *, imitated: bool
) -> Reconciled:
    """The problems in the order of `saved`, digests by id. Raises ValueError, in one line, where others than repaired or
    removed ones that are not in `trained` differ.
    """
    given = {problem.id: problem for problem in problems}
    added = [problem_id for problem_id in given if problem_id not in saved]
    removed = [problem_id for problem_id in saved if problem_id not in given]
    repaired = [
        problem_id
        for problem_id, known in saved.items()
        if problem_id in given and digest(given[problem_id], imitated=imitated) != known
    ]
    for what, ids, why in (
        ("new", added, "a run's problems are those that it began with"),
        ("other than they were", [i for i in repaired if i in trained], "steps have trained on them"),
        ("gone", [i for i in removed if i in trained], "steps have trained on them"),
    ):
        if ids:
            raise ValueError(
                f"{len(ids)} problems are {what}: {shown(ids)}; {why}: resume with the problems as they were, or start "
                "a new run from the checkpoint's model"
            )
    if len(removed) == len(saved):
        raise ValueError("all problems of the checkpoint are gone: resume with those that were not trained")
    return Reconciled(
        problems=[given.get(problem_id) or Problem(id=problem_id, prompt="") for problem_id in saved],
        removed=frozenset(removed),
        repaired=frozenset(repaired),
    )

"""What a controller begins with: nothing yet, or what a checkpoint kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.config.schema import RunConfig
from cluster.leasing.ledger import Ledger
from cluster.run.recovery import Origin
from cluster.run.unjudged import Unjudged
from cluster.run_directory.record import read_state
from verifiers.types import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """The state of a run that is not the learner's."""

    version: int
    ledger: Ledger
    unjudged: Unjudged


def restore(config: RunConfig, origin: Origin, problems: Sequence[Problem], run_dir: Path) -> Restored:
    """The state in the origin's checkpoint, with the problems that no group asks set aside in the ledger."""
    train, num_samples = config.train, config.rollout.samples_per_prompt
    num_groups = train.steps * train.groups_per_step
    state = read_state(origin.checkpoint) if origin.checkpoint else None
    if state is None:
        ledger = Ledger(
            num_problems=len(problems), num_groups=num_groups, num_samples=num_samples, seed=train.seed
        )
    else:
        ledger = Ledger.from_json(state["ledger"], num_samples=num_samples, num_groups=num_groups)
    changed = origin.removed | origin.repaired
    entries = [entry for entry in (state or {}).get("unjudged", []) if entry["problem_id"] not in changed]
    entries += origin.unjudged
    set_aside = origin.removed | {entry["problem_id"] for entry in origin.unjudged}
    for index, problem in enumerate(problems):
        if problem.id in set_aside:
            ledger.set_aside.add(index)
        elif problem.id in origin.repaired:
            ledger.set_aside.discard(index)
    unjudged = Unjudged(
        run_dir,
        limit=train.max_unjudged_problems,
        num_problems=len(problems) - len(origin.removed),
        entries=entries,
    )
    return Restored(version=state["version"] if state else 0, ledger=ledger, unjudged=unjudged)

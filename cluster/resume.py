"""Which run a checkpoint belongs to: settings that must not change when it is resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.config import RunConfig
from cluster.record import read_state
from verifiers.types import Problem


def identity(config: RunConfig, problems: Sequence[Problem]) -> dict[str, Any]:
    """What makes group g of the ledger the same prompts and seeds: kept in every checkpoint."""
    ids = "\n".join(problem.id for problem in problems)
    return {
        "train.seed": config.train.seed,
        "train.groups_per_step": config.train.groups_per_step,
        "rollout.samples_per_prompt": config.rollout.samples_per_prompt,
        "problems": f"{len(problems)} problems, sha256 {hashlib.sha256(ids.encode()).hexdigest()[:16]}",
    }


def check_same_run(checkpoint: Path, now: Mapping[str, Any]) -> None:
    """Raises ValueError, in one line, for a setting of `identity` that is not the checkpoint's."""
    saved = read_state(checkpoint).get("identity", {})
    for name, value in now.items():
        if saved.get(name) != value:
            raise ValueError(
                f"{name} is {value!r}, checkpoint {checkpoint} was made with {saved.get(name)!r}: "
                "resume with that, or start a new run from the checkpoint's model"
            )

"""Whether a checkpoint is one of this run, and with which problems the run goes on from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.model_files import is_adapter
from cluster.config.schema import RunConfig
from cluster.leasing.ledger import Ledger
from cluster.run_directory.identity import identity
from cluster.run_directory.problem_list import Reconciled, read_problem_list, reconcile
from cluster.run_directory.record import read_state
from learner.config import LoraConfig
from verifiers.types import Problem

LORA, MODEL, PROBLEMS = "learner.lora", "model", "problems"
"""Names of an identity."""
UNKNOWN, NO_ADAPTERS = "without that setting", "without adapters"
"""What a run may have begun with."""


def check_same_run(checkpoint: Path, config: RunConfig, problems: Sequence[Problem]) -> Reconciled:
    """The problems that the run goes on with. Raises ValueError, in one line, for a setting that must be the
    checkpoint's and is not, and for problems that steps have trained on and that are no longer what they were.
    """
    state = read_state(checkpoint)
    saved = state.get("identity", {})
    listed = read_problem_list(checkpoint)
    now = identity(config, problems)
    if listed is not None:  # each of them is compared below
        saved, now = (
            {name: one for name, one in facts.items() if name != PROBLEMS} for facts in (saved, now)
        )
    if (found := first_difference(now, saved)) is not None:
        name, ours, theirs = found
        raise ValueError(
            f"{name} is {ours}, checkpoint {checkpoint} was made {theirs}: {_as_then(theirs)}{_begin_anew(checkpoint)}"
        )
    if state["version"] > config.train.steps:
        raise ValueError(
            f"train.steps = {config.train.steps}, checkpoint {checkpoint} has {state['version']} steps already: raise it"
        )
    if listed is None:
        return Reconciled(problems=list(problems))
    ids = list(listed)
    trained = {ids[index] for index in Ledger.from_json(state["ledger"]).trained_problems()}
    return reconcile(listed, problems, trained, imitated=config.objective.needs_demonstrations)


def first_difference(now: Mapping[str, Any], then: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """Between the identities of a config and of a run: the setting, what it is, and `with ...` or `without ...` that the run
    was begun. None: there is none.

    The model last: it counts with adapters or a KL only, and other settings say that these are new.
    """
    gone = [name for name in then if name not in now and name.startswith("objective.")]
    for name in dict.fromkeys([*(name for name in now if name != MODEL), *gone, LORA, MODEL]):
        ours, theirs = now.get(name), then.get(name)
        if ours == theirs:
            continue
        if name == LORA and not (ours and theirs):
            return name, "set" if ours else "not set", "with adapters" if theirs else NO_ADAPTERS
        if name == LORA:
            ours, theirs = _in_full(now[LORA]), _in_full(then[LORA])
            field = next(field for field in ours if ours[field] != theirs[field])
            return f"{name}.{field}", repr(ours[field]), f"with {theirs[field]!r}"
        if name in gone:
            return name, "not set", f"with {theirs!r}"
        if name in now:
            return name, repr(ours), f"with {theirs!r}" if name in then else UNKNOWN
    return None


def _in_full(lora: Mapping[str, Any]) -> dict[str, Any]:
    """With the settings that are not written where they are usual."""
    fields = dict(LoraConfig.model_validate(lora))
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def _as_then(theirs: str) -> str:
    if theirs == UNKNOWN:
        return ""
    return "resume without them, or " if theirs == NO_ADAPTERS else "resume with that, or "


def _begin_anew(checkpoint: Path) -> str:
    if is_adapter(checkpoint / "model"):
        return f"start a new run with the model that `bonfire export {checkpoint} --merged DIR` writes to DIR"
    return f"start a new run with model = {str(checkpoint / 'model')!r}"

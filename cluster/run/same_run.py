"""Whether a checkpoint is one of this run, and with which problems the run goes on from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors.model_files import is_adapter
from cluster.config.schema import RunConfig
from cluster.leasing.ledger import Ledger
from cluster.run_directory.identity import identity
from cluster.run_directory.problem_list import Reconciled, read_problem_list, reconcile
from cluster.run_directory.record import read_state
from verifiers.types import Problem

LORA = "learner.lora"


def check_same_run(checkpoint: Path, config: RunConfig, problems: Sequence[Problem]) -> Reconciled:
    """The problems that the run goes on with. Raises ValueError, in one line, for a setting that must be the
    checkpoint's and is not, and for problems that steps have trained on and that are no longer what they were.
    """
    state = read_state(checkpoint)
    saved = state.get("identity", {})
    listed = read_problem_list(checkpoint)
    for name, value in identity(config, problems).items():
        if name == "problems" and listed is not None:
            continue
        if name not in saved:
            raise ValueError(
                f"{name} is {value!r}, checkpoint {checkpoint} was made without that setting: {_begin_anew(checkpoint)}"
            )
        if saved[name] != value:
            name, now, then = _first_difference(name, value, saved[name])
            raise ValueError(
                f"{name} is {now}, checkpoint {checkpoint} was made with {then}: resume with that, or "
                f"{_begin_anew(checkpoint)}"
            )
    if LORA in saved and config.learner.lora is None:
        raise ValueError(
            f"checkpoint {checkpoint} was made with [learner.lora], which the config has not: resume with it, or "
            f"{_begin_anew(checkpoint)}"
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


def _first_difference(name: str, value: Any, saved: Any) -> tuple[str, str, str]:
    """Of two settings that differ: itself, or the first one that differs in them where they are sections; as they read."""
    while isinstance(value, dict) and isinstance(saved, dict):
        field = next(field for field in [*value, *saved] if value.get(field) != saved.get(field))
        if field not in value or field not in saved:
            now, then = (
                repr(one[field]) if field in one else "left to its default" for one in (value, saved)
            )
            return f"{name}.{field}", now, then
        name, value, saved = f"{name}.{field}", value[field], saved[field]
    return name, repr(value), repr(saved)


def _begin_anew(checkpoint: Path) -> str:
    if is_adapter(checkpoint / "model"):
        return f"start a new run with the model that `bonfire export {checkpoint} --merged DIR` writes to DIR"
    return f"start a new run with model = {str(checkpoint / 'model')!r}"

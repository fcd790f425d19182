"""Whether a checkpoint is one of this run, and with which problems the run goes on from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cluster.config.schema import RunConfig
from cluster.leasing.ledger import Ledger
from cluster.run_directory.identity import identity
from cluster.run_directory.problem_list import Reconciled, read_problem_list, reconcile
from cluster.run_directory.record import read_state
from verifiers.types import Problem


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
                f"{name} is {value!r}, checkpoint {checkpoint} was made without that setting: "
                f"start a new run with model = {str(checkpoint / 'model')!r}"
            )
        if saved[name] != value:
            raise ValueError(
                f"{name} is {value!r}, checkpoint {checkpoint} was made with {saved[name]!r}: "
                "resume with that, or start a new run from the checkpoint's model"
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

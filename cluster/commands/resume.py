"""--resume: the run that is meant, while nothing else drives it."""

from __future__ import annotations

import socket
from pathlib import Path

from cluster.config.parse import load_config
from cluster.config.schema import RunConfig
from cluster.jobs import find_run, joining
from cluster.run.same_run import first_difference
from cluster.run_directory.checkpoints import holds_run
from cluster.run_directory.identity import identity
from cluster.run_directory.record import RUN_FILE, SETTINGS_FILE, finished_checkpoints
from cluster.run_directory.run_file import is_driven_here, read_run_file

AUTO = "auto"
"""--resume auto: go on where the run directory holds a run, begin one where it does not."""


def find_or_begin(config: RunConfig) -> tuple[RunConfig, Path, bool]:
    """The settings and run directory for --resume auto, and whether there is a run to go on with.

    Settings are `config`, but for the steps of a decay that it does not give: a run keeps those it began with.
    Raises ValueError where run_dir is not set, or holds a run of other settings that has no checkpoint yet; one
    that has is compared by `check_same_run`.
    """
    if not config.run_dir:
        raise ValueError(
            "--resume auto needs run_dir=DIR, each time the same: without it every run has a directory of its own"
        )
    run_dir = Path(config.run_dir)
    if not holds_run(run_dir):
        return config, run_dir, False
    begun_with = load_config(run_dir / SETTINGS_FILE) if (run_dir / SETTINGS_FILE).exists() else None
    steps = begun_with.learner.schedule_steps if begun_with else None
    if config.learner.decays and steps and "schedule_steps" not in config.learner.model_fields_set:
        learner = config.learner.model_copy(update={"schedule_steps": steps})
        config = config.model_copy(update={"learner": learner})
    if begun_with and not finished_checkpoints(run_dir):
        found = first_difference(identity(config, []), identity(begun_with, []))
        if found is not None:
            name, ours, theirs = found
            raise ValueError(
                f"{name} is {ours}, the run in {run_dir} was begun {theirs}: go on with that, or choose another run_dir"
            )
    return config, run_dir, True


def check_not_running(run_dir: Path, address: str | None) -> str | None:
    """Raises ValueError when the run's own process still lives: on this machine, or, by its controller's name, on
    the Ray cluster at `address`.

    Returns what to tell the user where that cannot be known: of a process of another host that had no
    controller, or one on a cluster of its own.
    """
    if not (run_dir / RUN_FILE).exists():
        return None
    about = read_run_file(run_dir)
    if is_driven_here(about):
        raise ValueError(f"the run in {run_dir} is still running (pid {about['pid']}): stop it first")
    host = about.get("host", socket.gethostname())
    if host == socket.gethostname() or about.get("stage") == "ended":
        return None
    if address is not None:
        try:
            names, joined = joining.names_on(address), joining.joined_address()
        finally:
            joining.disconnect()
        if about["name"] in names:
            raise ValueError(
                f"the run in {run_dir} still trains {find_run.on(address)}, driven from host {host}: stop it first"
            )
        if about.get("stage") == "training" and about.get("address") == joined:
            return None
    return f"{run_dir / RUN_FILE} was left by a process of host {host}, at stage {about.get('stage')!r}: taken for dead"

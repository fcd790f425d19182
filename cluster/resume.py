"""What a run goes on from: a checkpoint that is whole and its own, while nothing else drives it."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cluster import find_run
from cluster.config import RunConfig, load_config
from cluster.integrity import MANIFEST_FILE, find_damage
from cluster.record import RUN_FILE, SETTINGS_FILE, finished_checkpoints, read_state, set_aside
from cluster.run_file import is_driven_here, read_run_file
from learner.config import WITHOUT_EFFECT_ON_RESULT
from verifiers.types import Problem

AUTO = "auto"
"""--resume auto: go on where the run directory holds a run, begin one where it does not."""


def holds_run(run_dir: Path) -> bool:
    """Whether there is a run in a directory, of which more is left than the making of its base model."""
    return (run_dir / SETTINGS_FILE).exists() or bool(finished_checkpoints(run_dir))


def find_or_begin(config: RunConfig) -> tuple[Path, bool]:
    """The run directory for --resume auto, and whether there is a run to go on with.

    Raises ValueError where it is not set, or holds a run of other settings that has no checkpoint yet; one
    that has is compared by `check_same_run`.
    """
    if not config.run_dir:
        raise ValueError(
            "--resume auto needs run_dir=DIR, each time the same: without it every run has a directory of its own"
        )
    run_dir = Path(config.run_dir)
    if not holds_run(run_dir):
        return run_dir, False
    if not finished_checkpoints(run_dir):
        saved = identity(load_config(run_dir / SETTINGS_FILE, []), [])
        for name, value in identity(config, []).items():
            if saved.get(name) != value:
                raise ValueError(
                    f"{name} is {value!r}, the run in {run_dir} was begun with {saved.get(name)!r}: go on with that, or "
                    "choose another run_dir"
                )
    return run_dir, True


def identity(config: RunConfig, problems: Sequence[Problem]) -> dict[str, Any]:
    """What a resumed run must have in common with its checkpoint: what is asked, and how it is learned."""
    content = hashlib.sha256()
    for problem in problems:
        asked: tuple[Any, ...] = (problem.id, problem.prompt, sorted(problem.truth.items()))
        if config.objective.needs_demonstrations:
            asked += (problem.demonstration,)
        content.update(repr(asked).encode())
    learner = config.learner.model_dump(mode="json", exclude=set(WITHOUT_EFFECT_ON_RESULT))
    objective = config.objective.model_dump(mode="json")
    is_directory = Path(config.model).is_dir()  # a resumed run may name it from another working directory
    model = str(Path(config.model).absolute()) if is_directory else config.model
    anchor = {"model": model} if config.learner.kl_coefficient > 0 else {}
    return {
        **anchor,
        "train.seed": config.train.seed,
        "train.groups_per_step": config.train.groups_per_step,
        "rollout.samples_per_prompt": config.rollout.samples_per_prompt,
        "rollout.temperature": config.rollout.temperature,
        "rollout.max_tokens": config.rollout.max_tokens,
        "rollout.chat": config.rollout.chat.model_dump(mode="json"),
        "verifier.reward": config.verifier.reward,
        "verifier.score": config.verifier.score,
        "problems": f"{len(problems)} problems, sha256 {content.hexdigest()[:16]}",
        **{f"learner.{name}": value for name, value in learner.items()},
        **{f"objective.{name}": value for name, value in objective.items()},
    }


def check_same_run(checkpoint: Path, config: RunConfig, problems: Sequence[Problem]) -> None:
    """Raises ValueError, in one line, for a setting that must be the checkpoint's and is not."""
    state = read_state(checkpoint)
    saved = state.get("identity", {})
    for name, value in identity(config, problems).items():
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


def usable_checkpoint(run_dir: Path, tell: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that is as it was written; None where the run has none yet.

    Damaged ones that are newer are set aside, which `tell` hears, a line each. Raises ValueError where there
    are checkpoints, but none that can be used; then nothing is changed.
    """
    damaged: list[tuple[Path, str]] = []
    for checkpoint in reversed(finished_checkpoints(run_dir)):
        damage = _damage(checkpoint)
        if damage is None:
            for path, what in damaged:
                aside = set_aside(path)
                tell(
                    f"checkpoint {path} is damaged ({what}): it is kept as {aside.name}, the run goes on from "
                    f"{checkpoint.name}"
                )
            return checkpoint
        damaged.append((checkpoint, damage))
    if damaged:
        listed = "; ".join(f"{path.name}: {what}" for path, what in damaged)
        raise ValueError(
            f"{run_dir / 'checkpoints'} has no checkpoint that can be used ({listed}): bring one back from a copy, or "
            "begin anew with another run_dir"
        )
    return None


def _damage(checkpoint: Path) -> str | None:
    try:
        state = read_state(checkpoint)
    except ValueError as error:
        return str(error).removeprefix(f"checkpoint {checkpoint} has ").removesuffix(": use an older one")
    if "manifest" in state or (checkpoint / MANIFEST_FILE).exists():
        return find_damage(checkpoint)
    return None  # written before there were manifests


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
            names, joined = find_run.names_on(address), find_run.joined_address()
        finally:
            find_run.disconnect()
        if about["name"] in names:
            raise ValueError(
                f"the run in {run_dir} still trains {find_run.on(address)}, driven from host {host}: stop it first"
            )
        if about.get("stage") == "training" and about.get("address") == joined:
            return None
    return f"{run_dir / RUN_FILE} was left by a process of host {host}, at stage {about.get('stage')!r}: taken for dead"

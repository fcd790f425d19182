"""Which checkpoint of a run can be gone on from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cluster.run_directory.integrity import MANIFEST_FILE, find_damage
from cluster.run_directory.record import SETTINGS_FILE, finished_checkpoints, read_state, set_aside


def holds_run(run_dir: Path) -> bool:
    """Whether there is a run in a directory, of which more is left than the making of its base model."""
    return (run_dir / SETTINGS_FILE).exists() or bool(finished_checkpoints(run_dir))


def newest_undamaged(run_dir: Path) -> tuple[Path | None, list[tuple[Path, str]]]:
    """The newest checkpoint that is as it was written, None where the run has none yet, and newer ones with their damage.

    Raises ValueError where there are checkpoints, but none that can be used.
    """
    damaged: list[tuple[Path, str]] = []
    for checkpoint in reversed(finished_checkpoints(run_dir)):
        damage = _damage(checkpoint)
        if damage is None:
            return checkpoint, damaged
        damaged.append((checkpoint, damage))
    if damaged:
        listed = "; ".join(f"{path.name}: {what}" for path, what in damaged)
        raise ValueError(
            f"{run_dir / 'checkpoints'} has no checkpoint that can be used ({listed}): bring one back from a copy, or "
            "begin anew with another run_dir"
        )
    return None, []


def usable_checkpoint(run_dir: Path, tell: Callable[[str], None]) -> Path | None:
    """The same, with damaged ones that are newer set aside, which `tell` hears, a line each."""
    checkpoint, damaged = newest_undamaged(run_dir)
    for path, what in damaged:
        assert checkpoint is not None
        aside = set_aside(path)
        tell(
            f"checkpoint {path} is damaged ({what}): it is kept as {aside.name}, the run goes on from {checkpoint.name}"
        )
    return checkpoint


def _damage(checkpoint: Path) -> str | None:
    try:
        state = read_state(checkpoint)
    except ValueError as error:
        return str(error).removeprefix(f"checkpoint {checkpoint} has ").removesuffix(": use an older one")
    if "manifest" in state or (checkpoint / MANIFEST_FILE).exists():
        return find_damage(checkpoint)
    return None  # written before there were manifests

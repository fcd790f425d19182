"""What a run leaves on disk, in open formats; every file is whole or absent.

RUN_DIR/config.toml            resolved config            RUN_DIR/metrics.jsonl       a line per step
RUN_DIR/run.json               git commit, seed, address  RUN_DIR/trajectories/*.parquet  a row per group
RUN_DIR/checkpoints/step-N/    model, optimizer, ledger   RUN_DIR/report.json, *.png  the evaluation
RUN_DIR/best                   link to the best of them   RUN_DIR/held_out*           evaluations while it trains
RUN_DIR/base_scores.parquet    ranks are among them       RUN_DIR/unjudged.jsonl      problems set aside

A checkpoint is step-N.partial while it is written or removed, and step-N.damaged once it was found to be
other than what was written.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.run_directory.integrity import MANIFEST_FILE, write_manifest

CHECKPOINT = "step-{:06d}"
PARTIAL = ".partial"
DAMAGED = ".damaged"
STATE_FILE = "run_state.json"
RUN_FILE = "run.json"
SETTINGS_FILE = "config.toml"
UNJUDGED_FILE = "unjudged.jsonl"
BASE_SCORES_FILE = "base_scores.parquet"
BEST_LINK = "best"


class WriteFailed(OSError):
    """A file could not be written; one line that names it and how full its disk is."""


class RunRecord:
    """The run directory."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.checkpoints_dir = run_dir / "checkpoints"
        self.trajectories_dir = run_dir / "trajectories"
        for directory in (self.checkpoints_dir, self.trajectories_dir):
            directory.mkdir(parents=True, exist_ok=True)
        self._unsynced: list[Path] = []
        """Files of trajectories since the newest checkpoint."""
        self.kept_steps: set[int] = set()
        """Checkpoints that are not dropped however old they are."""

    def append_metrics(self, facts: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl; a number that JSON cannot hold (NaN, infinity) becomes null.

        Raises WriteFailed; the file then has the lines it had.
        """
        path = self.run_dir / "metrics.jsonl"
        line = (json.dumps(without_infinities(facts), allow_nan=False) + "\n").encode()
        with path.open("ab", buffering=0) as file:
            size_bytes = file.tell()
            try:
                with naming_disk(path):
                    while line:  # a disk that becomes full takes a part first
                        line = line[file.write(line) :]
            except OSError:
                file.truncate(size_bytes)
                raise

    def begin_trajectories(self, step: int) -> Path:
        """Where the groups trained in a step are to be written; `finish_trajectories` gives the file its name."""
        return self.trajectories_path(step).with_suffix(PARTIAL)

    def finish_trajectories(self, step: int) -> None:
        """Name the file, which is sure to survive a crash of the machine from the next checkpoint on. Raises WriteFailed."""
        path = self.trajectories_path(step)
        try:
            with naming_disk(path):
                os.replace(self.begin_trajectories(step), path)
        except OSError:
            self.drop_trajectories(step)
            raise
        self._unsynced.append(path)

    def drop_trajectories(self, step: int) -> None:
        """Remove what was written of a file that will not be finished."""
        self.begin_trajectories(step).unlink(missing_ok=True)

    def trajectories_path(self, step: int) -> Path:
        """The file of a step's groups, a row each."""
        return self.trajectories_dir / f"step-{step:06d}.parquet"

    def begin_checkpoint(self, step: int) -> Path:
        """An empty directory to write a checkpoint into; `finish_checkpoint` gives it its name."""
        partial = self._partial(step)
        with naming_disk(partial):
            self.drop_checkpoint(step)
            partial.mkdir(parents=True)
        return partial

    def drop_checkpoint(self, step: int) -> None:
        """Remove what was written of a checkpoint that will not be finished."""
        shutil.rmtree(self._partial(step), ignore_errors=True)

    def finish_checkpoint(self, step: int, state: Mapping[str, Any], *, keep: int) -> Path:
        """Add the run's own state and the manifest, make everything durable, rename, drop the oldest beyond `keep`.

        Durable are then also metrics and trajectories of all steps before it. Raises WriteFailed, and
        nothing of the checkpoint is left.
        """
        partial, final = self._partial(step), self.checkpoints_dir / CHECKPOINT.format(step)
        try:
            with naming_disk(partial):
                state = {**state, "manifest": MANIFEST_FILE}
                (partial / STATE_FILE).write_text(json.dumps(state, indent=1))
                write_manifest(partial)
                metrics = self.run_dir / "metrics.jsonl"
                recorded = [self.trajectories_dir, *([metrics] if metrics.exists() else [])]
                for path in self._unsynced:
                    with suppress(FileNotFoundError):  # somebody has moved it away
                        _sync(path)
                for path in [*recorded, *partial.rglob("*"), partial]:
                    _sync(path)
                _remove_directory(final)
                os.replace(partial, final)
                _sync(self.checkpoints_dir)
        except OSError:
            self.drop_checkpoint(step)
            raise
        self._unsynced = []
        self.drop_old(keep)
        return final

    def drop_old(self, keep: int) -> None:
        """All checkpoints but the newest `keep`, and those of `kept_steps`."""
        for old in self.checkpoints()[:-keep]:
            if step_of(old) not in self.kept_steps:
                _remove_directory(old)

    def link_best(self, step: int | None) -> None:
        """Have RUN_DIR/best lead to the checkpoint of a step; None: to none, and it is gone."""
        link = self.run_dir / BEST_LINK
        if step is None:
            link.unlink(missing_ok=True)
            return
        with naming_disk(link):
            partial = link.with_name(link.name + PARTIAL)
            partial.unlink(missing_ok=True)
            partial.symlink_to(self.checkpoints_dir.relative_to(self.run_dir) / CHECKPOINT.format(step))
            os.replace(partial, link)

    def checkpoints(self) -> list[Path]:
        """Finished checkpoints, oldest first."""
        return finished_checkpoints(self.run_dir)

    def newest_step(self) -> int:
        """The last step whose groups are on disk; 0 without any."""
        return max(
            (step_of(path) for path in self.trajectories_dir.iterdir() if _is_of_a_step(path)), default=0
        )

    def rewind(self, step: int) -> None:
        """Remove what was recorded after `step`: a resumed run does those steps again."""
        for path in self.trajectories_dir.iterdir():
            if path.suffix == PARTIAL or (_is_of_a_step(path) and step_of(path) > step):
                path.unlink()
        for path in self.checkpoints_dir.glob(f"step-*{PARTIAL}"):
            shutil.rmtree(path)
        for path in self.checkpoints():
            if step_of(path) > step:
                _remove_directory(path)
        metrics = self.run_dir / "metrics.jsonl"
        if metrics.exists():
            lines = metrics.read_text(errors="replace").splitlines()
            kept = [line for line in lines if _step_of_line(line) <= step]
            if kept == lines:
                return
            write_atomically(metrics, "".join(line + "\n" for line in kept))

    def _partial(self, step: int) -> Path:
        return self.checkpoints_dir / (CHECKPOINT.format(step) + PARTIAL)


def finished_checkpoints(run_dir: Path) -> list[Path]:
    """Checkpoints of a run directory, oldest first; none when it is not there."""
    directories = (run_dir / "checkpoints").glob("step-*")
    named = [path for path in directories if re.fullmatch(r"step-\d+", path.name) and path.is_dir()]
    return sorted(named, key=step_of)


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint or a file of trajectories."""
    return int(path.stem.removeprefix("step-"))


def _is_of_a_step(path: Path) -> bool:
    """Among trajectories; others may have left files of their own beside them."""
    return re.fullmatch(r"step-\d+\.parquet", path.name) is not None


def set_aside(checkpoint: Path) -> Path:
    """Rename a checkpoint so that it is kept and never again taken for one; its new name."""
    aside = checkpoint.with_name(checkpoint.name + DAMAGED)
    for number in itertools.count(2):
        if not aside.exists():
            break
        aside = checkpoint.with_name(f"{checkpoint.name}-{number}{DAMAGED}")
    os.replace(checkpoint, aside)
    return aside


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The run's state in a checkpoint. Raises ValueError when it is missing or damaged."""
    try:
        return json.loads((checkpoint / STATE_FILE).read_text())
    except (OSError, ValueError) as error:  # not UTF-8, or not JSON
        raise ValueError(
            f"checkpoint {checkpoint} has no readable {STATE_FILE} ({error}): use an older one"
        ) from None


def without_infinities(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts with null for every number that JSON cannot hold (NaN, infinity)."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in facts.items()
    }


def write_atomically(path: Path, text: str) -> None:
    """Write a small file so that a reader sees the old text or the new, also after a crash of the machine.

    Raises WriteFailed, and leaves nothing of the new.
    """
    with _replacing(path, path.with_name(path.name + PARTIAL)) as partial:
        partial.write_text(text)
        _sync(partial)
    _sync(path.parent)


def write_table_atomically(
    path: Path, table: pa.Table, *, row_group_size: int | None = None, compression_level: int | None = None
) -> None:
    """Write a Parquet file so that a reader sees all of it or none. Raises WriteFailed, and leaves none."""
    with _replacing(path, path.with_suffix(PARTIAL)) as partial:
        pq.write_table(
            table,
            partial,
            compression="zstd",
            compression_level=compression_level,
            row_group_size=row_group_size,
        )


@contextmanager
def naming_disk(path: Path) -> Iterator[None]:
    """Any OSError within becomes WriteFailed. To be left before anything is cleaned up: it says what was free."""
    try:
        yield
    except WriteFailed:
        raise
    except OSError as error:
        raise write_failed(path, error.strerror or str(error)) from error


def write_failed(path: Path, reason: str) -> WriteFailed:
    """The error of a file or directory that could not be written."""
    free_bytes = shutil.disk_usage(next(parent for parent in path.parents if parent.exists())).free
    return WriteFailed(
        f"{path} cannot be written ({reason}); {free_bytes:,} bytes are free on that disk: make room and go on with "
        "--resume"
    )


@contextmanager
def _replacing(path: Path, partial: Path) -> Iterator[Path]:
    """Another name to write to, that becomes `path` if the write succeeds, and goes if it does not."""
    try:
        with naming_disk(path):
            yield partial
            os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _step_of_line(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")


def _remove_directory(path: Path) -> None:
    """Renamed first: a crash in the middle leaves no checkpoint that lacks a part."""
    if path.exists():
        removed = path.with_name(f"{path.name}.removed{PARTIAL}")
        os.replace(path, removed)
        shutil.rmtree(removed)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

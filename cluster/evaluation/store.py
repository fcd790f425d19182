"""What an evaluation leaves on disk, so that it can be interrupted, gone on with, extended, judged again.

DIR/settings.json                what identifies the samples, and the models they are of
DIR/problems.parquet             a row per problem: index, id, prompt, difficulty
DIR/samples/NAME@T.parquet       a finished cell: a row per problem, in their order, every sample with its verdict
DIR/samples/NAME@T.parts/        an unfinished one: the same rows, a file for every few seconds

Every file appears whole, under its name, or not at all; what is lost to SIGKILL is what was not yet written.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from actors.arrow_forms import scored_from_batch, scored_to_batch
from actors.types import ScoredGroup
from cluster.run_directory.record import write_atomically, write_table_atomically
from verifiers.types import Problem

SETTINGS_FILE = "settings.json"
PROBLEMS_FILE = "problems.parquet"
GROUPS_PER_PART = 32
ROWS_PER_READ = 64


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Cell:
    """One model at one sampling temperature."""

    model: str
    temperature: float

    @property
    def label(self) -> str:
        return f"{self.model}@{self.temperature:g}"

    @classmethod
    def from_label(cls, label: str) -> Self:
        """Raises ValueError for anything that is not a label."""
        model, _, temperature = label.rpartition("@")
        try:
            return cls(model=model, temperature=float(temperature))
        except ValueError:
            raise ValueError(
                f"{label!r} is not NAME@TEMPERATURE, as files of samples are named: remove it"
            ) from None


def read_samples(path: Path) -> list[ScoredGroup]:
    """The scored groups of one Parquet file of samples, in the order of the problems.

    `samples.group` is the problem's index, `samples.problem_id` its id. Raises ValueError for a damaged file.
    """
    with _naming_damage(path):
        batches = pq.ParquetFile(path).iter_batches(batch_size=ROWS_PER_READ)
        groups = [group for batch in batches for group in scored_from_batch(batch)]
    return sorted(groups, key=lambda group: group.samples.group)


def sample_files(directory: Path) -> dict[Cell, Path]:
    """The finished cells of an evaluation."""
    return {Cell.from_label(path.stem): path for path in sorted((directory / "samples").glob("*.parquet"))}


def unfinished_labels(directory: Path) -> list[str]:
    """Cells that were begun, and lack samples."""
    return sorted(path.stem for path in (directory / "samples").glob("*.parts"))


def read_problems(directory: Path) -> list[Problem]:
    """The problems of an evaluation, in order; without their truth."""
    rows = _read_table(directory / PROBLEMS_FILE).to_pylist()
    return [Problem(id=row["id"], prompt=row["prompt"], difficulty=row["difficulty"]) for row in rows]


def read_settings(directory: Path) -> dict[str, Any]:
    """settings.json of an evaluation. Raises ValueError when there is none, or a damaged one."""
    path = directory / SETTINGS_FILE
    try:
        settings = json.loads(path.read_text())
        return {"identity": dict(settings["identity"]), "models": dict(settings["models"])}
    except FileNotFoundError:
        raise ValueError(f"{directory} holds no evaluation: there is no {SETTINGS_FILE} in it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not the settings of an evaluation ({error!r}): mend it, or choose another directory"
        ) from None


class EvalStore:
    """One evaluation's directory, open for writing by this process alone; use as a context manager."""

    def __init__(
        self,
        directory: Path,
        identity: Mapping[str, Any],
        problems: Sequence[Problem],
        *,
        start_anew: bool = False,
    ) -> None:
        """Make the directory, or go on with the one that is there.

        Raises ValueError when it holds something else, another process writes to it, or its samples
        were drawn under other settings (`start_anew`: removes those instead).
        """
        self.directory = directory
        self.problems = problems
        self.identity = dict(identity)
        self.models: dict[str, dict[str, str]] = {}
        self._samples_dir = directory / "samples"
        self._start_anew = start_anew
        there = self._settings_there()
        changed = there is not None and there["identity"] != self.identity
        self._samples_dir.mkdir(parents=True, exist_ok=True)
        self._lock = (directory / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{directory} is being written by another bonfire: wait for its end") from None
        except OSError:
            pass  # a file system without locks
        if changed:
            for left in self._samples_dir.iterdir():
                _remove(left)
        elif there is not None:
            self.models = there["models"]
        self._write_settings()
        _write_problems(problems, directory / PROBLEMS_FILE)
        self._pending: dict[Cell, list[ScoredGroup]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.close()

    def add_model(self, name: str, path: str, contents: str) -> None:
        """Enter a model. Raises ValueError when the samples under its name are of other weights."""
        known = self.models.get(name)
        if known is not None and known["fingerprint"] != contents:
            if not self._start_anew:
                raise ValueError(
                    f"{self.directory}: the samples of {name!r} are of other weights than {path} has now: "
                    "give the model another name, or choose another --out"
                )
            self.remove_model(name)
        self.models[name] = {"path": path, "fingerprint": contents}
        self._write_settings()

    def remove_model(self, name: str) -> None:
        """Its samples too."""
        for left in self._samples_dir.glob(f"{name}@*"):
            _remove(left)
        del self.models[name]
        self._write_settings()

    def missing(self, cell: Cell) -> list[int]:
        """Indices of the problems that the cell has no samples of yet."""
        if self._file(cell).exists():
            return []
        parts = self._parts_dir(cell).glob("*.parquet")
        there = {index for part in parts for index in _read_table(part, ["group"])[0].to_pylist()}
        return [index for index in range(len(self.problems)) if index not in there]

    def put(self, cell: Cell, index: int, group: ScoredGroup) -> None:
        """Keep the samples of one problem: on disk after GROUPS_PER_PART of them, or the next `flush`."""
        samples = dataclasses.replace(group.samples, group=index)
        pending = self._pending.setdefault(cell, [])
        pending.append(dataclasses.replace(group, samples=samples))
        if len(pending) >= GROUPS_PER_PART:
            self._flush(cell)

    def flush(self) -> None:
        """Write what is kept in memory."""
        for cell in list(self._pending):
            self._flush(cell)

    def finish(self, cell: Cell) -> None:
        """Join the parts of a cell that misses nothing into one file, in the order of the problems."""
        self._flush(cell)
        parts_dir, path = self._parts_dir(cell), self._file(cell)
        if not path.exists():
            assert not self.missing(cell)
            table = pa.concat_tables([_read_table(part) for part in sorted(parts_dir.glob("*.parquet"))])
            rows = pc.sort_indices(table["group"])
            write_table_atomically(path, table.take(rows), row_group_size=ROWS_PER_READ)
        shutil.rmtree(parts_dir, ignore_errors=True)

    def _flush(self, cell: Cell) -> None:
        groups = self._pending.pop(cell, [])
        if not groups:
            return
        directory = self._parts_dir(cell)
        directory.mkdir(exist_ok=True)
        # Not their number: a damaged one may have been deleted.
        number = 1 + max((int(path.stem) for path in directory.glob("*.parquet")), default=-1)
        table = pa.Table.from_batches([scored_to_batch(groups)])
        write_table_atomically(directory / f"{number:06d}.parquet", table)

    def _settings_there(self) -> dict[str, Any] | None:
        """Settings found on disk, None without; raises ValueError if ours may not fill the same directory."""
        if not (self.directory / SETTINGS_FILE).exists():
            if not self._start_anew and not self._is_empty():
                raise ValueError(
                    f"{self.directory} is not empty and holds no evaluation: choose another --out"
                )
            return None
        settings = read_settings(self.directory)
        for name in {**settings["identity"], **self.identity}:
            there, wanted = settings["identity"].get(name), self.identity.get(name)
            if there != wanted and not self._start_anew:
                raise ValueError(
                    f"{self.directory} holds samples of {name} = {there!r}, the config says {wanted!r}: "
                    "set it back, or choose another --out"
                )
        return settings

    def _is_empty(self) -> bool:
        """Whether there is nothing but what a call leaves that dies before it has written its settings."""
        left = {".lock", self._samples_dir.name, f"{SETTINGS_FILE}.partial"}
        names = {path.name for path in self.directory.iterdir()} if self.directory.exists() else set()
        return names <= left and not any(self._samples_dir.glob("*"))

    def _write_settings(self) -> None:
        settings = {"identity": self.identity, "models": self.models}
        write_atomically(self.directory / SETTINGS_FILE, json.dumps(settings, indent=1))

    def _file(self, cell: Cell) -> Path:
        return self._samples_dir / f"{cell.label}.parquet"

    def _parts_dir(self, cell: Cell) -> Path:
        return self._samples_dir / f"{cell.label}.parts"


def check_names(names: Sequence[str]) -> None:
    """Names of models become names of files."""
    for name in names:
        if not re.fullmatch(r"[\w.+-]+", name):
            raise ValueError(
                f"model name {name!r} has characters that a file's name should not: use letters, digits, . + - _"
            )


def _read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    with _naming_damage(path):
        return pq.read_table(path, columns=columns)


@contextmanager
def _naming_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(
            f"{path} cannot be read ({reason}): if it is damaged delete it, and `bonfire eval` makes it anew"
        ) from None


def _write_problems(problems: Sequence[Problem], path: Path) -> None:
    rows = [
        {"index": index, "id": problem.id, "prompt": problem.prompt, "difficulty": problem.difficulty}
        for index, problem in enumerate(problems)
    ]
    write_table_atomically(path, pa.Table.from_pylist(rows))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()

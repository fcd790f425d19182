"""The facts of all groups of a run, in memory, kept up to date by a thread of its own.

The trajectories themselves stay where they are. What was reduced is kept in the user's cache directory, by the names,
sizes and times of the files, so that a large run is read once.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.run_directory.record import step_of
from cluster.view.group_facts import NUMBERS, TEXTS, Unreadable, read_facts

VERSION = "1"
"""Of what is kept in the cache; another one is not read."""
FILES_PER_CHUNK = 64
SAVE_AFTER_FILES = 256
FEW_FILES = 300
"""So many are read while a page waits."""
LOOK_EVERY_S = 1.0
"""At a directory of more than that."""
Signature = tuple[int, int]
"""Size and time of change of a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Facts of G groups. `columns`: each of NUMBERS, and codes of each of TEXTS into `names`; all [G], by step."""

    columns: Mapping[str, np.ndarray]
    names: Mapping[str, list[str]]
    num_files: int
    """Of trajectories that there are; `num_read` of them are in."""
    num_read: int
    damaged: tuple[str, ...]
    """A line for each file that could not be read."""

    @property
    def num_groups(self) -> int:
        return len(self.columns["step"])

    @property
    def is_complete(self) -> bool:
        """Whether every file is in, or known to be damaged."""
        return self.num_read + len(self.damaged) >= self.num_files


class GroupIndex:
    """Of one run. Without a `cache` directory nothing is kept between two calls of the command."""

    def __init__(self, trajectories_dir: Path, cache: Path | None) -> None:
        self._directory = trajectories_dir
        digest = hashlib.sha256(str(trajectories_dir.absolute()).encode()).hexdigest()[:24]
        self._cache_file = cache / f"{digest}.parquet" if cache is not None else None
        self._codes: dict[str, dict[str, int]] = {name: {} for name in TEXTS}
        self._read: dict[int, Signature] = {}
        self._damaged: dict[int, tuple[Signature, str]] = {}
        self._columns: dict[str, np.ndarray] = {name: np.empty(0, kind) for name, kind in NUMBERS.items()}
        self._columns |= {name: np.empty(0, np.int32) for name in TEXTS}
        self._num_files = 0
        self._unsaved = 0
        self._snapshot = self._take_snapshot()
        self._wanted, self._changed = threading.Event(), threading.Condition()
        self._rounds = 0
        self._is_loaded = False
        self._thread: threading.Thread | None = None

    def snapshot(self, wait_s: float = 0.6) -> Snapshot:
        """What is known now; waits so long for a look at the directory, and for small runs to be read whole."""
        with self._changed:
            if self._thread is None:
                self._num_files = len(self._files())
                self._snapshot = self._take_snapshot()
                self._thread = threading.Thread(target=self._keep_up, daemon=True, name="view-index")
                self._thread.start()
            seen = self._rounds
            self._wanted.set()
            self._changed.wait_for(lambda: self._rounds > seen or self._is_not_waited_for(), timeout=wait_s)
            return self._snapshot

    def _is_not_waited_for(self) -> bool:
        """A large run: what is known of it is shown at once, and its page follows by itself."""
        return self._is_loaded and self._snapshot.num_files > FEW_FILES

    def read_all(self) -> Snapshot:
        """Everything there is, read before this returns; for use without the thread."""
        self._load()
        self._look()
        self._save()
        return self._take_snapshot()

    def _keep_up(self) -> None:
        self._load()
        self._is_loaded = True
        self._publish()
        while True:
            self._wanted.wait()
            self._wanted.clear()
            try:
                self._look()
            except Exception as error:  # noqa: BLE001 - a thread that dies would leave every page waiting
                self._damaged[-1] = ((0, 0), f"{self._directory} cannot be read: {error!r}")
                self._publish()
            with self._changed:
                self._rounds += 1
                self._changed.notify_all()
            if self._unsaved >= SAVE_AFTER_FILES:
                self._save()
            time.sleep(LOOK_EVERY_S if self._snapshot.num_files > FEW_FILES else 0.02)

    def _look(self) -> None:
        """Read new and changed files, newest steps last; forget those that a rewind removed."""
        there = self._files()
        self._num_files = len(there)
        known = {**self._read, **{step: signature for step, (signature, _) in self._damaged.items()}}
        gone = {step for step, signature in known.items() if there.get(step) != signature}
        if gone:
            self._forget(gone)
            known = {step: signature for step, signature in known.items() if step not in gone}
        new = sorted(there.keys() - known.keys())
        self._publish()
        with ThreadPoolExecutor(max_workers=2) as pool:
            for start in range(0, len(new), FILES_PER_CHUNK):
                steps = new[start : start + FILES_PER_CHUNK]
                read = list(pool.map(self._read_file, steps))
                facts = []
                for step, found in zip(steps, read, strict=True):
                    if isinstance(found, str):
                        self._damaged[step] = (there[step], found)
                    elif found is not None:
                        facts.append(found)
                        self._read[step] = there[step]
                self._append(facts)
                self._unsaved += len(facts)
                self._publish()

    def _files(self) -> dict[int, Signature]:
        found = {}
        try:
            with os.scandir(self._directory) as entries:
                for entry in entries:
                    if entry.name.startswith("step-") and entry.name.endswith(".parquet"):
                        try:
                            about = entry.stat()
                            found[step_of(Path(entry.name))] = (about.st_size, about.st_mtime_ns)
                        except (OSError, ValueError):
                            continue
        except OSError:  # not there yet, or not to be read
            return {}
        return found

    def _read_file(self, step: int) -> dict[str, Any] | str | None:
        path = self.path_of(step)
        try:
            return read_facts(path, step)
        except Unreadable as error:
            return str(error) if path.exists() else None

    def path_of(self, step: int) -> Path:
        """The file of one step's groups."""
        return self._directory / f"step-{step:06d}.parquet"

    def _append(self, facts: list[dict[str, Any]]) -> None:
        if not facts:
            return
        columns = {
            name: np.concatenate([self._columns[name], *(one[name] for one in facts)]) for name in NUMBERS
        }
        for name in TEXTS:
            codes = self._codes[name]
            new = [codes.setdefault(text, len(codes)) for one in facts for text in one[name]]
            columns[name] = np.concatenate([self._columns[name], np.array(new, np.int32)])
        if np.any(np.diff(columns["step"]) < 0):  # a step that was done again
            order = np.argsort(columns["step"], kind="stable")
            columns = {name: column[order] for name, column in columns.items()}
        self._columns = columns

    def _forget(self, steps: set[int]) -> None:
        kept = ~np.isin(self._columns["step"], list(steps))
        self._columns = {name: column[kept] for name, column in self._columns.items()}
        for step in steps:
            self._read.pop(step, None)
            self._damaged.pop(step, None)

    def _publish(self) -> None:
        with self._changed:
            self._snapshot = self._take_snapshot()
            self._changed.notify_all()

    def _take_snapshot(self) -> Snapshot:
        return Snapshot(
            columns=self._columns,
            names={name: list(codes) for name, codes in self._codes.items()},
            num_files=self._num_files,
            num_read=len(self._read),
            damaged=tuple(text for _, text in self._damaged.values()),
        )

    def _load(self) -> None:
        if self._cache_file is None:
            return
        try:
            table = pq.read_table(self._cache_file)
            about = json.loads(table.schema.metadata[b"bonfire"])
            if about["version"] != VERSION:
                return
            columns = {name: table[name].to_numpy().astype(kind) for name, kind in NUMBERS.items()}
            for name in TEXTS:
                self._codes[name] = {text: code for code, text in enumerate(about[name])}
                columns[name] = table[name].to_numpy().astype(np.int32)
            self._columns = columns
            self._read = {int(step): (size, changed) for step, (size, changed) in about["files"].items()}
        except (OSError, pa.ArrowException, ValueError, KeyError, TypeError):
            return  # a cache that cannot be read is none

    def _save(self) -> None:
        if self._cache_file is None or self._unsaved == 0:
            return
        about = {"version": VERSION, "files": self._read, **{name: list(self._codes[name]) for name in TEXTS}}
        table = pa.table(dict(self._columns)).replace_schema_metadata({"bonfire": json.dumps(about)})
        partial = self._cache_file.with_suffix(f".{os.getpid()}")
        try:
            self._cache_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            pq.write_table(table, partial, compression="zstd")
            os.replace(partial, self._cache_file)
        except OSError:
            partial.unlink(missing_ok=True)
        self._unsaved = 0

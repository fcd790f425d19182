"""The runs and evaluations that pages are about: found under directories, each known by a short name."""

from __future__ import annotations

import hashlib
import os
import threading
import time
import tomllib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from cluster.run_directory.record import RUN_FILE, SETTINGS_FILE
from cluster.run_directory.run_file import is_driven_elsewhere, is_driven_here, read_run_file
from cluster.view.evaluations import Evaluation, is_evaluation
from cluster.view.events import Event, read_events
from cluster.view.group_index import GroupIndex
from cluster.view.metrics_log import MetricsLog, last_facts
from cluster.view.token_texts import TokenTexts, find_tokenizer
from cluster.view.truths import HeldOutTruths, TrainingTruths

EVALUATION = "evaluation"
METRICS_FILE = "metrics.jsonl"
FIND_EVERY_S = 2.0
LOG_IS_FRESH_S = 120.0
"""A run of another machine counts as running while its metrics are younger, or its steps are slower than that."""


class Run:
    """One run directory. Everything in it is read when it is first needed."""

    def __init__(self, directory: Path, name: str, cache: Path | None) -> None:
        self.directory = directory
        self.name = name
        self.metrics = MetricsLog(directory / METRICS_FILE)
        self.groups = GroupIndex(directory / "trajectories", cache)

    @property
    def about(self) -> dict[str, Any]:
        """run.json; empty where it is missing or damaged."""
        try:
            return read_run_file(self.directory)
        except ValueError:
            return {}

    @property
    def state(self) -> str:
        """running, running elsewhere, ended, or interrupted: no process drives it, and none said that it was over."""
        about = self.about
        try:
            if about and is_driven_here(about):
                return "running"
        except (KeyError, TypeError):
            return "unknown"
        if about and is_driven_elsewhere(about):
            return "running elsewhere"
        return "ended" if not about or about.get("stage") == "ended" else "interrupted"

    @property
    def newest(self) -> dict[str, Any]:
        """Facts of the last step; empty before the first."""
        return last_facts(self.directory / METRICS_FILE)

    @property
    def is_running(self) -> bool:
        return self.state.startswith("running")

    @cached_property
    def settings(self) -> dict[str, Any]:
        """config.toml; empty where it is missing or damaged."""
        try:
            return tomllib.loads((self.directory / SETTINGS_FILE).read_text())
        except (OSError, ValueError):
            return {}

    def setting(self, section: str, name: str, default: Any = None) -> Any:
        """One of config.toml; `default` where it has none."""
        found = self.settings.get(section)
        return found.get(name, default) if isinstance(found, dict) else default

    @property
    def num_select(self) -> int:
        """N of Best-of-N; of a schedule the one it ends with."""
        value = self.setting("objective", "num_select")
        value = value.get("to") if isinstance(value, dict) else value
        return value if isinstance(value, int) and value > 0 else 1

    @property
    def num_select_text(self) -> str:
        """`, N = 16`, or of a schedule `, N = 16 to 1`; empty for a run that selects nothing."""
        value = self.setting("objective", "num_select")
        if isinstance(value, dict):
            return f", N = {value.get('from')} to {value.get('to')}"
        return f", N = {self.num_select}" if self.num_select > 1 else ""

    @property
    def evaluation(self) -> Evaluation | None:
        """The run's own, finished or not."""
        directory = self.directory / EVALUATION
        return Evaluation(directory, f"{self.name}.{EVALUATION}") if is_evaluation(directory) else None

    @property
    def events(self) -> list[Event]:
        """Of its controller's log, oldest first; none before a step has ended."""
        columns = self.metrics.columns()
        if "time" not in columns:
            return []
        return read_events(self.directory, columns["step"], columns["time"])

    @property
    def token_texts(self) -> TokenTexts:
        """By the tokenizer of the newest checkpoint."""
        path = find_tokenizer(self.directory, str(self.settings.get("model", "")))
        known = self.__dict__.get("_token_texts")
        if known is None or known[0] != path:
            known = self.__dict__["_token_texts"] = (path, TokenTexts(path))
        return known[1]

    @cached_property
    def truths(self) -> TrainingTruths:
        """Of the problems it trains on."""
        return TrainingTruths(self.directory, self.settings)

    @cached_property
    def test_truths(self) -> HeldOutTruths:
        """Of the problems of its evaluation."""
        return HeldOutTruths(self.directory, self.settings)


class Library:
    """Runs and evaluations of some paths: each is one, or a directory of them, looked through again now and then.

    Raises ValueError for a path that is neither.
    """

    def __init__(self, paths: Sequence[Path], cache: Path | None) -> None:
        self._paths = list(paths)
        self._cache = cache
        self._by_place: dict[Path, Run | Evaluation] = {}
        self.runs: dict[str, Run] = {}
        self.evaluations: dict[str, Evaluation] = {}
        self._looked_s = float("-inf")
        for path in self._paths:
            if not path.is_dir():
                raise ValueError(
                    f"{path} is no directory: give a run's, an evaluation's, or one that holds some"
                )
            if not _found_in(path) and not _may_fill(path):
                raise ValueError(
                    f"{path} holds no run and no evaluation: there is no {RUN_FILE} and no samples/ in it or one below"
                )
        self.refresh()

    def refresh(self) -> None:
        """Look for new runs and evaluations, at most every FIND_EVERY_S; those that are gone go."""
        if time.monotonic() < self._looked_s + FIND_EVERY_S:
            return
        self._looked_s = time.monotonic()
        places = list(dict.fromkeys(place for path in self._paths for place in _found_in(path)))
        names = _names(places)
        self._by_place = {
            place: self._by_place.get(place) or self._make(place, names[place])
            for place in sorted(places, key=_started, reverse=True)
        }
        self.runs = {one.name: one for one in self._by_place.values() if isinstance(one, Run)}
        alone = {one.name: one for one in self._by_place.values() if isinstance(one, Evaluation)}
        of_runs = {one.name: one for run in self.runs.values() if (one := run.evaluation) is not None}
        self.evaluations = {**of_runs, **alone}

    def start_reading(self, num_runs: int) -> None:
        """Have the newest runs read before anybody asks, so that a first page has something to show."""
        runs = list(self.runs.values())[:num_runs]

        def read() -> None:
            for run in runs:
                run.metrics.refresh()
            for run in runs:
                run.groups.snapshot(wait_s=0.0)

        threading.Thread(target=read, daemon=True, name="view-first").start()

    def _make(self, place: Path, name: str) -> Run | Evaluation:
        return Run(place, name, self._cache) if is_run(place) else Evaluation(place, name)


def is_run(directory: Path) -> bool:
    """Whether a run left anything there that a page can show."""
    return (directory / RUN_FILE).is_file() or (directory / METRICS_FILE).is_file()


def cache_directory() -> Path:
    """Where the facts of groups are kept between two calls."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bonfire" / "view"


def _found_in(path: Path) -> list[Path]:
    if is_run(path) or is_evaluation(path):
        return [path]
    try:
        return [
            place for place in path.iterdir() if place.is_dir() and (is_run(place) or is_evaluation(place))
        ]
    except OSError:
        return []


def _may_fill(path: Path) -> bool:
    """An empty directory, or one of runs that hold nothing yet."""
    return path.name == "runs" or not any(path.iterdir())


def _names(places: Sequence[Path]) -> dict[Path, str]:
    """The last part of each path, with a digest of all of it where two are the same."""
    last = [place.absolute().name for place in places]
    return {
        place: name
        if last.count(name) == 1
        else f"{name}~{hashlib.sha256(str(place.absolute()).encode()).hexdigest()[:6]}"
        for place, name in zip(places, last, strict=True)
    }


def _started(place: Path) -> float:
    try:
        return float(read_run_file(place).get("started", 0.0)) if is_run(place) else place.stat().st_mtime
    except (ValueError, OSError, TypeError):
        return 0.0

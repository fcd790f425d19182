"""The truth of a run's problems. A run does not record it: the problems are read again where its settings say they are,
and count only while they are those that the run asked, by what it recorded of them.
"""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cluster.evaluation.identity import problems_identity
from cluster.evaluation.store import read_settings
from cluster.run_directory.problem_list import digest, read_problem_list
from cluster.run_directory.record import finished_checkpoints
from verifiers.problems.config import ProblemsConfig
from verifiers.problems.loading import read_problems
from verifiers.types import Problem

MAX_SOURCE_BYTES = 1 << 30
MAX_LINE_CHARS = 80
WAIT_S = 1.5
"""For a first reading, which goes on in the background."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What is known of one problem beside its samples; `note` says what is not, or what to hold of it."""

    prompt: str | None = None
    values: Mapping[str, str] | None = None
    """Text by name."""
    difficulty: str = ""
    note: str = ""


class Truths(ABC):
    """Of one split of a run's problems, read in a thread of its own when first asked for."""

    split: Literal["train", "test"]

    def __init__(self, run_dir: Path, settings: Mapping[str, Any]) -> None:
        self._run_dir, self._settings = run_dir, settings
        self._problems: dict[str, Problem] = {}
        self._why_not = "the problems are still being read: reload this page"
        self._done, self._lock = threading.Event(), threading.Lock()
        self._thread: threading.Thread | None = None

    @abstractmethod
    def fault(self, problem: Problem) -> str:
        """Why a problem that was read is not the one asked; empty where it is."""

    @abstractmethod
    def prepare(self, problems: Sequence[Problem]) -> str:
        """Called once, with all of them, before `fault`; what a page says of each."""

    def of(self, problem_id: str) -> Truth:
        """What is known of a problem, waiting shortly where the problems are still being read."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._read, daemon=True, name="view-truths")
                self._thread.start()
        self._done.wait(WAIT_S)
        problem = self._problems.get(problem_id)
        if problem is None:
            return Truth(
                note=self._why_not or "the problem is not among those that the run's settings name now"
            )
        if fault := self.fault(problem):
            return Truth(note=f"not shown: {fault}")
        return Truth(
            prompt=problem.prompt,
            values={name: _text(value) for name, value in problem.truth.items()},
            difficulty=problem.difficulty,
            note=self._note,
        )

    def _read(self) -> None:
        try:
            config = ProblemsConfig.model_validate(self._settings.get("problems", {}))
            why_not = _why_not(config) or ""
            if not why_not:
                problems, _ = read_problems(config, self.split)
                self._note = self.prepare(problems)
                self._problems = {problem.id: problem for problem in problems}
        except Exception as error:  # noqa: BLE001 - whatever the source raises, pages go on without it
            reason = str(error).splitlines()[0] if str(error) else repr(error)
            why_not = f"the problems cannot be read where the run's settings say: {reason}"
        self._why_not = why_not
        self._done.set()


class TrainingTruths(Truths):
    """Compared with the digests in the run's newest checkpoint, problem by problem."""

    split = "train"

    def prepare(self, problems: Sequence[Problem]) -> str:
        checkpoints = finished_checkpoints(self._run_dir)
        self._digests = read_problem_list(checkpoints[-1]) if checkpoints else None
        if self._digests is None:
            return "read where the run's settings say, and compared with nothing: no checkpoint lists the problems"
        return ""

    def fault(self, problem: Problem) -> str:
        if self._digests is None:
            return ""
        known = {digest(problem, imitated=imitated) for imitated in (False, True)}
        return (
            "" if self._digests.get(problem.id) in known else "the problem has changed since the run asked it"
        )


class HeldOutTruths(Truths):
    """Compared with the hash in the settings of the run's evaluation, all together."""

    split = "test"

    def prepare(self, problems: Sequence[Problem]) -> str:
        asked = read_settings(self._run_dir / "evaluation")["identity"].get("problems")
        self._fault = (
            "" if problems_identity(problems) == asked else "the problems have changed since the evaluation"
        )
        return ""

    def fault(self, problem: Problem) -> str:
        return self._fault


def _why_not(config: ProblemsConfig) -> str | None:
    """Why the problems of a source are not read."""
    if config.source == "hub":
        return "not on disk: the problems come from a data set of the hub, and these pages ask no other host"
    if config.source == "files":
        named = [Path(path) for paths in (config.train_path, config.test_path) for path in paths or ()]
        size_bytes = sum(path.stat().st_size for path in named if path.is_file())
        if size_bytes > MAX_SOURCE_BYTES:
            return (
                f"not read: the files of problems have {size_bytes:,} bytes, more than {MAX_SOURCE_BYTES:,}"
            )
    return None


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    short = json.dumps(value, ensure_ascii=False, default=str)
    return (
        short
        if len(short) <= MAX_LINE_CHARS
        else json.dumps(value, ensure_ascii=False, indent=1, default=str)
    )

"""A run directory that grows as a controller's does, and the trackers' process beside it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from actors.types import ScoredGroup
from cluster.config.parse import parse_config
from cluster.config.schema import RunConfig
from cluster.run_directory.held_out import HeldOutRecord
from cluster.run_directory.record import SETTINGS_FILE, RunRecord, write_atomically
from cluster.tracking.process import following
from tests.shared.run_directories import record_trajectories
from tests.shared.tiny_model import make_group
from verifiers.types import Problem

GROUPS = 3
SAMPLES = 4
PATIENCE_S = 60.0
REPORT = {
    "ks": [1, 4],
    "cells": [
        {
            "model": model,
            "temperature": 1.0,
            "pass_at_k": {
                str(k): {"mean": value * k, "low": value * k - 0.01, "high": value * k + 0.01} for k in (1, 4)
            },
            "difference": None,
            "facts": {"mean_length": {"mean": 12.0, "low": None, "high": None}},
            "co_scaling": {"not_fitted": "too few"},
            "by_difficulty": {},
        }
        for model, value in (("base", 0.1), ("trained", 0.2))
    ],
}


class TrackedRunDirectory:
    """`reward` of step s is s / 100, plus 1 each time that the step is done again."""

    def __init__(self, run_dir: Path, *, to: Sequence[str], **settings: Any) -> None:
        self.run_dir = run_dir
        self.record = RunRecord(run_dir)
        self.config: RunConfig = parse_config(
            {"model": "m", "tracking": {"to": list(to), "examples_every": 2, "num_examples": 2, **settings}}
        )
        dumped = self.config.model_dump(mode="json", exclude_none=True)
        write_atomically(run_dir / SETTINGS_FILE, tomli_w.dumps(dumped))
        self.evaluations = HeldOutRecord(run_dir, step=0)
        self.notes: list[str] = []
        self._times_done: dict[int, int] = {}

    @property
    def problems(self) -> list[Problem]:
        return [
            Problem(id=f"problem-{number}", prompt=f"What is {number}|2?", truth={"answer": number})
            for number in range(2000)
        ]

    @contextmanager
    def followed(self, *, resumed_from: int = 0) -> Iterator[Any]:
        with following(
            self.config.tracking,
            self.run_dir,
            self.problems,
            resumed_from=resumed_from,
            note=self.notes.append,
        ) as this:
            yield this

    def groups(self, step: int) -> list[ScoredGroup]:
        return [make_group(step * GROUPS + place, samples=SAMPLES) for place in range(GROUPS)]

    def do_step(self, step: int) -> list[ScoredGroup]:
        """As the controller does it: metrics, then trajectories."""
        again = self._times_done[step] = self._times_done.get(step, -1) + 1
        facts = {"step": step, "version": step, "time": time.time(), "step_s": 0.5, "score": float("-inf")}
        self.record.append_metrics({**facts, "reward": step / 100 + again})
        groups = self.groups(step)
        weights_BN = np.tile(np.arange(SAMPLES) - 1.5, (GROUPS, 1))
        record_trajectories(self.record, step, groups, weights_BN)
        return groups

    def do_evaluation(self, step: int, *, ended_step: int) -> None:
        """pass@4 of step s is s / 50, plus what `reward` has of it being done again."""
        value = step / 50 + self._times_done.get(step, 0)
        estimate = {"mean": value, "low": value - 0.01, "high": value + 0.01}
        row = {
            "step": step, "ended_step": ended_step, "time": time.time(), "oldest_version": step, "newest_version": ended_step,
            "estimates": {"pass@4": estimate, "reward": estimate},
            "differences": {"pass@4": estimate} if step else {},
        }  # fmt: skip
        self.evaluations.add(row, {})

    def rewind(self, step: int) -> None:
        self.record.rewind(step)
        self.evaluations = HeldOutRecord(self.run_dir, step=step)

    def write_report(self) -> None:
        write_atomically(self.run_dir / "report.json", json.dumps(REPORT))

    def lines(self) -> list[dict[str, Any]]:
        """Of metrics.jsonl."""
        return [json.loads(line) for line in (self.run_dir / "metrics.jsonl").read_text().splitlines()]

    def told(self, name: str) -> dict[str, Any]:
        path = self.run_dir / "tracking.json"
        return json.loads(path.read_text()).get(name, {}) if path.exists() else {}

    def wait_until_told(self, name: str, step: int, mark: str = "mark") -> None:
        wait_for(lambda: self.told(name).get(mark, {}).get("step", 0) >= step)


def wait_for(condition: Callable[[], Any], timeout_s: float = PATIENCE_S) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)

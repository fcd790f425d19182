"""A training whose controller or learner is lost: when another one follows. The controllers are no actors."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from cluster.commands import training
from cluster.commands.training import Start, train_stage
from cluster.config.parse import parse_config
from cluster.run import launch
from cluster.run.asked import Asked
from cluster.run.recovery import Origin, Recoveries, RunLost
from cluster.run_directory.record import RunRecord
from cluster.run_directory.run_file import RunFile
from cluster.terminal.console import View
from tests.shared.run_directories import record_trajectories
from tests.shared.tiny_model import make_group

FACTS = {
    "stage": "starting",
    "step": 0,
    "steps": 9,
    "metrics_port": 1,
    "is_stopping": False,
    "targets": {"rollout": 2, "verifier": 1},
    "events": [],
    "unjudged_problems": [],
    "num_events": 0,
    "held_out": None,
}


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stage with controllers that write so many steps, are lost, and are then followed by one that ends well."""
    record = RunRecord(tmp_path / "run")
    monkeypatch.setattr(launch, "wait_for_its_end", lambda: None)

    def train(num_steps: int) -> list[Any]:
        """Configs of the controllers that there were."""
        configs: list[Any] = []

        def lives(config: Any, *, on_start: Any, **_: Any) -> dict[str, Any]:
            configs.append(config)
            on_start(FACTS)  # and is not asked again before it is over
            if len(configs) > 1:
                return {**FACTS, "stage": "finished"}
            for step in range(1, num_steps + 1):
                record_trajectories(record, step, [make_group(step)], np.ones((1, 4)))
            raise RunLost("learner was lost while writing a checkpoint: ActorDiedError")

        monkeypatch.setattr(launch, "train", lives)
        view = View("a run", ["training"], Console(file=io.StringIO()))
        start = Start(
            problems=[],
            test_problems=[],
            prompts=[],
            demonstrations=[],
            asked=Asked(),
            origin=Origin(),
        )
        with RunFile(record.run_dir, local=True) as run_file, view:
            train_stage(
                parse_config({"model": "some/model"}), view, record, start, run_file,
                ray_address="", received=[], go_on="this",
            )  # fmt: skip
        return configs

    return train


def test_a_run_that_is_lost_before_it_was_looked_at_twice_goes_on_with_as_many_workers(train):
    configs = train(num_steps=3)
    assert [config.rollout.workers for config in configs] == [1, 2]


def test_a_recovery_from_a_newer_checkpoint_knows_what_was_set_aside_since(tmp_path, monkeypatch):
    """A problem that was repaired before the resume, and on which the verifier fails all the same."""
    resumed, newer = tmp_path / "step-000002", tmp_path / "step-000004"
    origin = Origin(checkpoint=resumed, repaired=frozenset({"p1"}), removed=frozenset({"p2"}))
    monkeypatch.setattr(launch, "wait_for_its_end", lambda: None)
    for usable, repaired in ((resumed, {"p1"}), (newer, set())):
        monkeypatch.setattr(training, "usable_checkpoint", lambda *_, usable=usable: usable)
        again = training._recover(RunLost("lost"), Recoveries(3), RunRecord(tmp_path / "run"), origin, "this")
        assert (again.checkpoint, again.repaired, again.removed) == (usable, repaired, {"p2"})


def test_a_run_that_is_lost_before_its_first_step_is_not_begun_again(train):
    with pytest.raises(RuntimeError, match="learner was lost .*; go on with: this"):
        train(num_steps=0)

"""Samples go from the engine's node to verifiers and learner; the controller's process never has them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray

from actors.types import SampleGroup
from cluster.fleet.stored import JudgedGroup
from cluster.run.controller import Controller
from tests.shared.live_run import GROUPS, SAMPLES, staleness, trained_groups, trajectories
from tests.shared.paths import ROOT

ControllerClass = Controller.__ray_metadata__.modified_class


def holds_samples(value: Any) -> bool:
    """Whether something that Ray has deserialized is a batch or a group of samples, or has one in it."""
    if isinstance(value, list | tuple | dict):
        return any(map(holds_samples, value.values() if isinstance(value, dict) else value))
    return isinstance(value, pa.RecordBatch | pa.Table | SampleGroup)


class Watched(ControllerClass):
    """Counts in its process the groups of samples that are made, and all that Ray deserializes with samples in it."""

    def __init__(self, *arguments: Any) -> None:
        from ray._private.serialization import SerializationContext

        self.seen = {"made": 0, "deserialized": 0, "objects": 0}
        self.one: JudgedGroup | None = None
        make, deserialize = SampleGroup.__post_init__, SerializationContext.deserialize_objects

        def made(group: SampleGroup) -> None:
            self.seen["made"] += 1
            make(group)

        def deserialized(*args: Any, **kwargs: Any) -> Any:
            values = deserialize(*args, **kwargs)
            self.seen["objects"] += len(values)
            self.seen["deserialized"] += sum(map(holds_samples, values))
            return values

        SampleGroup.__post_init__ = made  # type: ignore[method-assign]
        SerializationContext.deserialize_objects = deserialized
        super().__init__(*arguments)
        add = self._batches.add

        def added(group: JudgedGroup) -> None:
            self.one = group
            add(group)

        self._batches.add = added

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "seen": dict(self.seen)}

    async def read_one(self) -> dict[str, int]:
        """What the counters say once this process does read a group."""
        from actors.arrow_forms import samples_of_row

        assert self.one is not None
        for piece in self.one.stored.pieces:
            samples_of_row(await piece.batch, piece.row)
        return dict(self.seen)


def test_no_token_comes_into_the_controllers_process(start, make_config, tmp_path: Path) -> None:
    evaluation = {"every": 2, "samples_per_problem": SAMPLES, "during_problems": 4, "ks": [1]}
    config = make_config(train={"max_staleness": 1, "steps": 1000}, evaluation=evaluation)
    with start(config, tmp_path, controller=ray.remote(Watched)) as run:
        facts = run.wait_for(lambda facts: facts["step"] >= 4 and facts["held_out"]["num"] >= 2)
        after = ray.get(run._controller.read_one.remote(), timeout=60)
        run.stop()
        run.finish()
    assert facts["seen"]["objects"] > 4 * GROUPS  # it has heard of them
    assert (facts["seen"]["made"], facts["seen"]["deserialized"]) == (0, 0)
    assert after["made"] == 1 and after["deserialized"] >= 1  # the counters do count
    rows = trajectories(tmp_path)[4]
    assert [len(row["texts"]) for row in rows] == [len(row["rewards"]) for row in rows] == [SAMPLES] * GROUPS


@pytest.fixture(scope="module")
def lost(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Run directory, and what was seen: nodes killed with groups to judge, and with groups to train."""
    run_dir = tmp_path_factory.mktemp("lost")
    done = subprocess.run(
        [sys.executable, "-m", "tests.shared.clusters", "losing", str(tiny_model), str(run_dir)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return run_dir, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(1300)
def test_groups_to_judge_whose_node_is_killed_are_sampled_again_and_no_verifier_is_blamed(lost) -> None:
    run_dir, seen = lost
    assert seen["waiting"]["verifier_queue"] > 0
    assert seen["lost_unjudged"] > 0
    assert seen["judged_again"]["restarts"] == {"rollout": 1, "verifier": 0}
    assert "are lost with the node they were on" in (run_dir / "controller.log").read_text()


@pytest.mark.slow
def test_a_worker_that_is_killed_takes_nothing_along_that_was_collected_from_it(lost) -> None:
    _, seen = lost
    assert seen["before_death"]["groups"]["buffered"] > 0
    assert seen["lost_with_a_process"] == 0


@pytest.mark.slow
def test_groups_to_train_whose_node_is_killed_are_sampled_again_and_the_learner_goes_on(lost) -> None:
    _, seen = lost
    assert seen["scored"]["groups"]["leased"] == 0 and seen["scored"]["groups"]["buffered"] > 0
    assert seen["lost_scored"] >= seen["scored"]["groups"]["buffered"] - seen["num_begun"]
    assert seen["trained_again"]["restarts"] == {"rollout": 3, "verifier": 1}
    first, last = seen["begun"], seen["end"]
    assert last["recoveries"] == 0
    assert last["learner_ranks"] == first["learner_ranks"]
    assert last["step"] >= seen["scored"]["step"] + 3


@pytest.mark.slow
def test_what_is_lost_with_nodes_is_trained_once_all_the_same(lost) -> None:
    run_dir, seen = lost
    trained = trained_groups(run_dir)
    assert len(trained) == len(set(trained)) == 16 * seen["end"]["step"]
    assert max(staleness(run_dir)) <= 1

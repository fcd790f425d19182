"""Nodes that join are used, and nodes that are to go are left in order. Real Ray nodes, on one machine."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
import ray

from cluster.fleet.nodes import bundle, describe, has_room, request_nodes
from learner.config import LearnerConfig
from tests.shared.live_run import staleness, trained_groups
from tests.shared.paths import ROOT
from verifiers.config import VerifierConfig


def test_a_bundle_names_what_is_reserved_and_nothing_else() -> None:
    assert bundle(LearnerConfig(num_cpus=1, num_gpus=0.5)) == {"CPU": 1, "GPU": 0.5}
    assert bundle(VerifierConfig(num_cpus=2, resources={"verifier": 1})) == {"CPU": 2, "verifier": 1}
    assert bundle(VerifierConfig(num_cpus=0)) == {}
    assert describe({"CPU": 1.0, "GPU": 0.5}) == "1 CPU, 0.5 GPU"
    assert describe({}) == "which reserves nothing"


@pytest.mark.parametrize(
    ("needed", "there_is"),
    [({}, True), ({"CPU": 0.5}, True), ({"CPU": 10_000.0}, False), ({"CPU": 0.5, "TPU": 1.0}, False)],
)
def test_there_is_room_where_one_node_has_all_that_is_needed(ray_cluster, needed, there_is) -> None:
    assert has_room(needed, without=[]) == there_is
    assert not has_room(needed, without=[node["NodeID"] for node in ray.nodes()])


def test_a_request_that_is_still_under_way_does_not_outlast_a_later_one(monkeypatch) -> None:
    """A run that ends while it asks for nodes must not leave that behind: they would never go."""
    heard: list[list[dict[str, float]]] = []
    first_is_under_way, answer = threading.Event(), threading.Event()

    def slow_head(bundles: list[dict[str, float]]) -> None:
        if bundles:
            first_is_under_way.set()
            answer.wait(30)
        heard.append(bundles)

    monkeypatch.setattr("ray.autoscaler.sdk.request_resources", slow_head)
    with ThreadPoolExecutor() as threads:
        threads.submit(request_nodes, [{"CPU": 1.0}, {}])
        assert first_is_under_way.wait(30)
        last = threads.submit(request_nodes, [])
        wait([last], timeout=0.2)
        answer.set()
    assert heard == [[{"CPU": 1.0}], []]


def see(scenario: str, model: Path, run_dir: Path) -> dict[str, Any]:
    """What a scenario of `tests.shared.clusters` saw."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.shared.clusters", scenario, str(model), str(run_dir)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def drained(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Run directory, and what was seen: a node too few, one that joins, one that is drained."""
    run_dir = tmp_path_factory.mktemp("drained")
    return run_dir, see("draining", tiny_model, run_dir)


@pytest.mark.slow
@pytest.mark.timeout(1300)
def test_a_worker_without_a_place_is_waited_for_and_named_while_the_others_train(drained) -> None:
    _, seen = drained
    waiting = seen["waiting"]
    assert waiting["waiting_for"] == ["1 rollout worker (2 CPU)"] and waiting["step"] >= 3
    assert any("waiting for resources: 1 rollout worker (2 CPU)" in event for event in waiting["events"])
    assert waiting["restarts"] == {"rollout": 0, "verifier": 0}


@pytest.mark.slow
def test_a_node_that_joins_is_used(drained) -> None:
    _, seen = drained
    assert seen["joined"]["waiting_for"] == []
    assert seen["nodes"]["first"] in {worker["node_id"] for worker in seen["joined"]["rollout_workers"]}


@pytest.mark.slow
def test_a_node_that_is_to_go_is_left_before_its_deadline(drained) -> None:
    run_dir, seen = drained
    assert seen["gone_before_deadline_s"] > 0
    left = {w["name"] for w in seen["joined"]["rollout_workers"] if w["node_id"] == seen["nodes"]["first"]}
    assert len(left) == 1
    (name,) = left
    now = {worker["name"]: worker["node_id"] for worker in seen["moved"]["rollout_workers"]}
    assert name not in now and seen["nodes"]["second"] in now.values()
    log = (run_dir / "controller.log").read_text()
    assert f"node {seen['nodes']['first'][:8]} is to go: {name} leaves it within" in log
    assert f"{name} has left" in log


@pytest.mark.slow
def test_nodes_that_come_and_go_lose_no_group_and_count_as_no_failure(drained) -> None:
    run_dir, seen = drained
    trained = trained_groups(run_dir)
    assert len(trained) == len(set(trained)) == 4 * seen["end"]["step"]
    assert max(staleness(run_dir)) <= 1
    assert seen["end"]["restarts"] == {"rollout": 0, "verifier": 0}
    assert seen["end"]["targets"] == {"rollout": 2, "verifier": 1}


@pytest.mark.slow
@pytest.mark.timeout(1300)
def test_the_autoscaler_brings_a_node_for_a_worker_that_is_asked_for_and_takes_it_back(
    tiny_model: Path, tmp_path: Path
) -> None:
    seen = see("autoscaling", tiny_model, tmp_path)
    assert (seen["nodes_with_one"], seen["nodes_with_two"]) == (1, 2)
    assert len({worker["node_id"] for worker in seen["two"]["rollout_workers"]}) == 2
    trained = trained_groups(tmp_path)
    assert len(trained) == len(set(trained)) == 4 * seen["end"]["step"]
    assert seen["end"]["restarts"] == {"rollout": 0, "verifier": 0}
    assert seen["end"]["targets"] == {"rollout": 1, "verifier": 1}

"""Faults of nodes, network, Ray's head, memory and disk, each alone, on a real run on four real Ray nodes.

The chaos run strikes them and judges (`benchmarks/chaos`); faults of single processes are in test_faulty_runs.py too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.chaos.faults import FAULTS
from tests.shared.paths import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STRUCK = [
    "raylet of a sampling node killed",
    "raylet stopped",
    "network of a node lost, and back",
    "network of a node interrupted",
    "GCS killed and restarted",
    "object store filled",
    "disk filled",
]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The chaos run's result, with what it printed."""
    out = tmp_path_factory.mktemp("faults") / "out"
    chosen = [word for name in STRUCK for word in ("--only", name)]
    possible = [sys.executable, "-m", "benchmarks.chaos", "--calm", "--seed=1", f"--out={out}", *chosen]
    done = subprocess.run(
        [*possible, f"--count={len(STRUCK)}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=1700,
    )
    result = out / "result.json"
    assert result.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    return {**json.loads(result.read_text()), "printed": done.stdout}


def test_no_group_is_lost_or_trained_twice_and_no_process_is_left(seen: dict[str, Any]) -> None:
    assert seen["failures"] == [], seen["printed"]
    assert seen["groups"]["trained"] == 4 * seen["steps"] > 0
    assert (seen["groups"]["lost"], seen["groups"]["duplicated"]) == (0, 0)


@pytest.mark.parametrize("name", STRUCK)
def test_the_run_is_whole_again_after(seen: dict[str, Any], name: str) -> None:
    if name in seen["left_out"]:
        assert not (os.environ.get("CI") == "true" and os.geteuid() == 0), seen["left_out"][name]
        pytest.skip(seen["left_out"][name])
    assert seen["faults"][name]["count"] >= 1 and seen["faults"][name]["not_recovered"] == 0


def test_a_node_is_given_up_when_it_is_lost_and_not_when_it_is_only_interrupted(seen: dict[str, Any]) -> None:
    for name in seen["faults"]:
        if name in ("raylet of a sampling node killed", "raylet stopped", "network of a node lost, and back"):
            assert seen["faults"][name]["noticed_median_s"] is not None


def test_every_fault_that_is_struck_here_is_one_of_the_table() -> None:
    assert set(STRUCK) <= FAULTS.keys()

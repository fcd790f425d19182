"""What the controller knows of a worker's start."""

from __future__ import annotations

import time

import pytest

from cluster.fleet.handles import LONGEST_PAUSE_S, PLACEMENT_NOTICE_S, WorkerHandle, pause_s
from cluster.fleet.slots import Slot


def handle(age_s: float) -> WorkerHandle:
    return WorkerHandle(
        name="rollout-0", actor=None, slot=Slot(is_initial=True), made_s=time.monotonic() - age_s
    )


def test_the_phases_of_a_start_add_up_to_the_time_since_it_was_asked_for() -> None:
    worker = handle(age_s=3.0)
    worker.end_phase("placed")
    worker.made_s -= 5.0  # as if 5 s went by
    worker.end_phase("engine")
    assert list(worker.startup_s) == ["placed", "engine"]
    assert worker.startup_s["placed"] == pytest.approx(3.0, abs=0.5)
    assert worker.startup_s["engine"] == pytest.approx(5.0, abs=0.5)
    assert worker.describe()["startup_s"] == worker.startup_s


def test_a_worker_without_a_process_waits_for_resources_once_that_takes_too_long() -> None:
    assert not handle(age_s=0.0).waits_for_resources
    assert handle(age_s=PLACEMENT_NOTICE_S + 1).waits_for_resources


def test_a_worker_that_was_placed_late_waits_no_more_and_is_still_late() -> None:
    """A synchronous step that has begun without it does not wait for its engine either."""
    worker = handle(age_s=PLACEMENT_NOTICE_S + 1)
    worker.pid = 4711
    worker.end_phase("placed")
    assert worker.is_late and not worker.waits_for_resources
    early = handle(age_s=1.0)
    early.end_phase("placed")
    early.made_s -= 3600.0
    assert not early.is_late


def test_a_worker_that_does_not_start_is_tried_again_at_once_and_then_ever_more_seldom() -> None:
    assert [pause_s(failed) for failed in range(7)] == [0.0, 0.0, 0.0, 10.0, 20.0, 40.0, 80.0]
    assert pause_s(1000) == LONGEST_PAUSE_S

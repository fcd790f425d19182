"""Problems on which the verifier fails: how often they are tried, where they are listed, when they are too many."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.fleet.calls import Halt
from cluster.run.unjudged import TRIES, Unjudged
from cluster.run_directory.record import UNJUDGED_FILE


def listed(run_dir: Path) -> list[str]:
    return [json.loads(line)["problem_id"] for line in (run_dir / UNJUDGED_FILE).read_text().splitlines()]


def fail(unjudged: Unjudged, problem_id: str, times: int = TRIES) -> list[bool]:
    return [unjudged.failed(problem_id, "KeyError: 'x'", step=7) for _ in range(times)]


def test_a_problem_is_set_aside_once_after_its_tries_and_listed_with_the_reason(tmp_path):
    unjudged = Unjudged(tmp_path, limit=2, num_problems=9)
    assert not (tmp_path / UNJUDGED_FILE).exists()
    assert unjudged.is_first_failure("p1")
    assert fail(unjudged, "p1", TRIES + 2) == [False] * (TRIES - 1) + [True, False, False]
    assert not unjudged.is_first_failure("p1")
    (entry,) = unjudged.entries
    assert (entry["problem_id"], entry["error"], entry["step"]) == ("p1", "KeyError: 'x'", 7)
    assert listed(tmp_path) == ["p1"]


@pytest.mark.parametrize(("limit", "num_problems"), [(1, 9), (5, 2)], ids=["the limit", "all there are"])
def test_more_than_may_be_or_all_there_are_end_the_run_and_are_listed(tmp_path, limit, num_problems):
    unjudged = Unjudged(tmp_path, limit=limit, num_problems=num_problems)
    fail(unjudged, "p1")
    with pytest.raises(
        Halt, match=r"cannot judge 2 of . problems.*unjudged\.jsonl, the last: p2: KeyError: 'x'"
    ):
        fail(unjudged, "p2")
    assert listed(tmp_path) == ["p1", "p2"]


def test_a_restart_has_those_of_its_checkpoint_and_no_others(tmp_path):
    earlier = Unjudged(tmp_path, limit=5, num_problems=9)
    fail(earlier, "p1")
    kept = earlier.entries
    fail(earlier, "p2")  # after the checkpoint
    again = Unjudged(tmp_path, limit=5, num_problems=9, entries=kept)
    assert listed(tmp_path) == ["p1"]
    assert fail(again, "p1") == [False] * TRIES
    assert fail(again, "p2")[-1] is True

"""Filters, orders and sums over groups, against slow loops."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from cluster.run_directory.record import RunRecord
from cluster.view.group_index import GroupIndex
from cluster.view.selection import (
    Selection,
    by_step,
    pass_at_k,
    problem_rows,
    wilson,
    workers_by_step,
)
from tests.shared.run_directories import record_trajectories
from tests.shared.viewed_runs import a_group


@pytest.fixture
def snapshot(tmp_path):
    record = RunRecord(tmp_path)
    steps = {
        1: [a_group(0, [0, 0, 0, 0], problem_id="add:1"), a_group(1, [1, 1, 1, 1], problem_id="mul:2")],
        2: [
            a_group(2, [1, 0, 0, 0], problem_id="add:1", scores=[0.2, 0.9, 0.1, 0.1], workers=["rollout-1"]),
            a_group(3, [1, 1, 0, 0], problem_id="mul:2", finish_reasons=["stop", "stop", "length", "stop"]),
        ],
    }
    for step, groups in steps.items():
        record_trajectories(
            record, step, groups, np.array([group.scores - group.scores.mean() for group in groups])
        )
    return GroupIndex(tmp_path / "trajectories", None).read_all()


def groups(snapshot, **query):
    rows = Selection.from_query(query).rows(snapshot)
    return snapshot.columns["group"][rows].tolist()


def test_without_a_filter_the_newest_step_is_first(snapshot):
    assert groups(snapshot) == [2, 3, 0, 1]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"kind": "none"}, [0]),
        ({"kind": "some"}, [2, 3]),
        ({"kind": "all"}, [1]),
        ({"kind": "disagree"}, [2]),
        ({"kind": "weightless"}, [0, 1]),
        ({"kind": "cut"}, [3]),
        ({"kind": "status"}, []),
        ({"problem": "mul"}, [3, 1]),
        ({"problem": "nothing"}, []),
        ({"step_min": "2"}, [2, 3]),
        ({"reward_min": "0.25", "reward_max": "0.5"}, [2, 3]),
        ({"sort": "reward"}, [1, 3, 2, 0]),
        ({"sort": "reward", "order": "asc"}, [0, 2, 3, 1]),
        ({"sort": "agreement", "order": "asc"}, [2, 3, 0, 1]),
    ],
)
def test_a_query_finds_these_groups_in_this_order(snapshot, query, expected):
    assert groups(snapshot, **query) == expected


@pytest.mark.parametrize(
    "query",
    [
        {"kind": "odd"},
        {"sort": "odd"},
        {"page": "-1"},
        {"page": "x"},
        {"reward_min": "x"},
        {"reward_min": "nan"},
    ],
)
def test_a_wrong_query_is_refused_and_named(query):
    [(name, value)] = query.items()
    with pytest.raises(ValueError, match=f"{name} = '{value}'"):
        Selection.from_query(query)


def test_a_selection_survives_its_address():
    query = {
        "kind": "some",
        "problem": "a&b",
        "sort": "reward",
        "order": "asc",
        "step_min": "2",
        "reward_max": "0.5",
    }
    assert Selection.from_query(query).describe() == query


def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample():
    for n, c, k in [(4, 0, 2), (4, 1, 2), (4, 4, 2), (5, 2, 3), (3, 1, 8), (6, 2, 6)]:
        subsets = list(combinations([1] * c + [0] * (n - c), min(k, n)))
        expected = sum(any(subset) for subset in subsets) / len(subsets)
        assert pass_at_k(np.array([n]), np.array([c]), k)[0] == pytest.approx(expected)


def test_wilsons_interval_solves_its_quadratic_and_ends_at_0_and_1():
    correct, num = np.array([0, 3, 10]), np.array([10, 10, 10])
    low, high = wilson(correct, num)
    assert low[0] == 0 and high[2] == 1
    for end in (low[1], high[1]):
        assert (0.3 - end) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / 10)


def test_problems_are_followed_from_their_first_to_their_newest_group(snapshot):
    rows = {row["problem_id"]: row for row in problem_rows(snapshot, 2)}
    assert rows["add:1"]["asked"] == 2 and (rows["add:1"]["first_step"], rows["add:1"]["last_step"]) == (1, 2)
    assert rows["add:1"]["first_pass"] == 0 and rows["add:1"]["last_pass"] == pytest.approx(0.5)
    assert rows["mul:2"]["change"] == pytest.approx(5 / 6 - 1)


def test_a_steps_mean_has_the_standard_error_over_its_groups(snapshot):
    steps, facts = by_step(snapshot, 2)
    assert steps.tolist() == [1, 2]
    mean, error = facts["reward"]
    assert mean.tolist() == [0.5, 0.375]
    assert error == pytest.approx([np.std([0, 1], ddof=1) / 2**0.5, np.std([0.25, 0.5], ddof=1) / 2**0.5])


def test_workers_are_counted_by_step(snapshot):
    steps, counts = workers_by_step(snapshot)
    assert (steps.tolist(), counts.tolist()) == ([1, 2], [1, 2])


def test_workers_that_share_a_group_are_counted_once_each(tmp_path):
    record = RunRecord(tmp_path)
    workers = {1: [["a", "b"], ["b"]], 3: [["c", "a", "b"], ["a", "c"]], 4: [["d"], ["d"]]}
    for step, of_groups in workers.items():
        groups = [a_group(10 * step + i, [0, 1, 0, 1], workers=names) for i, names in enumerate(of_groups)]
        record_trajectories(record, step, groups, np.zeros((len(groups), 4)))
    steps, counts = workers_by_step(GroupIndex(tmp_path / "trajectories", None).read_all())
    assert (steps.tolist(), counts.tolist()) == ([1, 3, 4], [2, 3, 1])

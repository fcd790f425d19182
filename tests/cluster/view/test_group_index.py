"""The index of a run's groups: what is new is read, what is gone goes, what is known is not read again."""

from __future__ import annotations

import numpy as np

from cluster.run_directory.record import RunRecord
from cluster.view import group_index
from cluster.view.group_index import GroupIndex
from tests.shared.run_directories import record_trajectories
from tests.shared.viewed_runs import a_group
from tests.shared.waiting import wait_for


def write(record, step, *rewards):
    groups = [a_group(10 * step + i, [reward, 0.0], problem_id=f"p{i}") for i, reward in enumerate(rewards)]
    record_trajectories(record, step, groups, np.zeros((len(groups), 2)))


def test_new_steps_are_added_and_rewound_ones_replaced(tmp_path):
    record, index = RunRecord(tmp_path), GroupIndex(tmp_path / "trajectories", None)
    write(record, 1, 1.0, 0.0)
    write(record, 2, 0.0)
    first = index.read_all()
    assert first.columns["group"].tolist() == [10, 11, 20] and first.is_complete
    record.rewind(1)
    assert index.read_all().columns["group"].tolist() == [10, 11]
    write(record, 2, 1.0, 1.0)
    write(record, 3, 1.0)
    again = index.read_all()
    assert again.columns["group"].tolist() == [10, 11, 20, 21, 30]
    assert again.columns["reward"].tolist() == [0.5, 0.0, 0.5, 0.5, 0.5]
    assert [again.names["problem_id"][code] for code in again.columns["problem_id"]] == [
        "p0",
        "p1",
        "p0",
        "p1",
        "p0",
    ]


def test_a_step_that_was_done_again_is_in_its_place(tmp_path):
    record, index = RunRecord(tmp_path), GroupIndex(tmp_path / "trajectories", None)
    for step in (1, 2, 3):
        write(record, step, 0.0)
    index.read_all()
    write(record, 2, 1.0, 1.0)
    assert index.read_all().columns["step"].tolist() == [1, 2, 2, 3]


def test_the_thread_follows_a_run(tmp_path):
    record, index = RunRecord(tmp_path), GroupIndex(tmp_path / "trajectories", None)
    assert index.snapshot().num_groups == 0
    write(record, 1, 1.0)
    wait_for(lambda: index.snapshot().num_groups == 1)
    write(record, 2, 1.0)
    wait_for(lambda: index.snapshot().num_groups == 2)


def test_a_damaged_file_is_named_and_the_others_are_read(tmp_path):
    record, index = RunRecord(tmp_path), GroupIndex(tmp_path / "trajectories", None)
    write(record, 1, 1.0)
    damaged = tmp_path / "trajectories" / "step-000002.parquet"
    damaged.write_bytes(b"nothing")
    found = index.read_all()
    assert found.num_groups == 1 and found.is_complete and str(damaged) in found.damaged[0]
    write(record, 2, 1.0)
    found = index.read_all()
    assert found.num_groups == 2 and found.damaged == ()


def test_what_was_reduced_is_not_read_again_by_the_next_command(tmp_path, monkeypatch):
    record = RunRecord(tmp_path / "run")
    for step in (1, 2):
        write(record, step, 1.0, 0.0)
    trajectories, cache = tmp_path / "run" / "trajectories", tmp_path / "cache"
    first = GroupIndex(trajectories, cache).read_all()
    read = []
    original = group_index.read_facts
    monkeypatch.setattr(
        group_index, "read_facts", lambda path, step: read.append(step) or original(path, step)
    )
    write(record, 2, 0.0)  # another file of that name
    write(record, 3, 1.0)
    second = GroupIndex(trajectories, cache).read_all()
    assert read == [2, 3]
    assert second.columns["step"].tolist() == [1, 1, 2, 3]
    assert second.columns["reward"].tolist()[:2] == first.columns["reward"].tolist()[:2]


def test_a_damaged_or_older_cache_is_no_cache(tmp_path):
    record = RunRecord(tmp_path / "run")
    write(record, 1, 1.0)
    cache = tmp_path / "cache"
    GroupIndex(tmp_path / "run" / "trajectories", cache).read_all()
    [kept] = cache.iterdir()
    kept.write_bytes(b"nothing")
    assert GroupIndex(tmp_path / "run" / "trajectories", cache).read_all().num_groups == 1


def test_nothing_is_written_into_the_runs_directory(tmp_path):
    record = RunRecord(tmp_path / "run")
    write(record, 1, 1.0)
    before = sorted(tmp_path.joinpath("run").rglob("*"))
    GroupIndex(tmp_path / "run" / "trajectories", tmp_path / "cache").read_all()
    assert sorted(tmp_path.joinpath("run").rglob("*")) == before

"""Facts of groups, against their definitions written out per group."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.run_directory.record import RunRecord
from cluster.view.group_facts import Unreadable, read_facts
from cluster.view.open_group import open_group
from tests.shared.run_directories import record_trajectories
from tests.shared.viewed_runs import a_group


def facts_of(tmp_path, groups, step=5):
    record = RunRecord(tmp_path)
    weights = np.array([np.linspace(-1, 1, len(group.rewards)) for group in groups])
    record_trajectories(record, step, groups, weights)
    return read_facts(record.trajectories_dir / f"step-{step:06d}.parquet", step)


def slow_agreement(scores, rewards):
    pairs = [(i, j) for i, j in itertools.combinations(range(len(scores)), 2) if rewards[i] != rewards[j]]
    if not pairs:
        return math.nan
    right = 0.0
    for i, j in pairs:
        better, worse = (i, j) if rewards[i] > rewards[j] else (j, i)
        right += 1.0 if scores[better] > scores[worse] else 0.5 if scores[better] == scores[worse] else 0.0
    return right / len(pairs)


def test_every_fact_is_what_its_definition_says(tmp_path):
    rng = np.random.default_rng(0)
    groups = [
        a_group(
            number,
            rng.integers(0, 3, 6).astype(float),
            scores=rng.integers(0, 3, 6).astype(float),
            lengths=rng.integers(1, 9, 6).tolist(),
            texts=[f"text {i}" for i in rng.integers(0, 3, 6)],
            version=int(rng.integers(0, 4)),
        )
        for number in range(12)
    ]
    found = facts_of(tmp_path, groups)
    for i, group in enumerate(groups):
        scores, rewards = group.scores, group.rewards
        top = scores == scores.max()
        lengths = np.diff(group.samples.offsets)
        expected = {
            "step": 5, "row": i, "group": i, "samples": 6, "correct": (rewards == 1).sum(), "reward": rewards.mean(),
            "best": rewards.max(), "score": scores.mean(), "picked": rewards[top].mean(),
            "regret": rewards.max() - rewards[top].mean(), "agreement": slow_agreement(scores, rewards),
            "differing": (scores != rewards).mean(), "weight": np.abs(np.linspace(-1, 1, 6)).sum(),
            "distinct": len(set(group.samples.texts)) / 6, "tokens": lengths.mean(), "longest": lengths.max(),
            "unfinished": 0.0, "not_ok": 0, "staleness": 5 - 1 - group.samples.oldest_version,
        }  # fmt: skip
        assert {name: found[name][i] for name in expected} == pytest.approx(expected, nan_ok=True)
        assert found["problem_id"][i] == f"p{i}"


def test_a_score_of_minus_infinity_is_never_picked_and_not_in_the_mean(tmp_path):
    found = facts_of(tmp_path, [a_group(0, [1.0, 0.0, 1.0], scores=[-math.inf, 0.5, -math.inf])])
    assert (found["score"][0], found["picked"][0], found["regret"][0], found["agreement"][0]) == (
        0.5,
        0.0,
        1.0,
        0.0,
    )


def test_a_group_without_any_finite_score_has_no_mean_score(tmp_path):
    found = facts_of(tmp_path, [a_group(0, [1.0, 0.0], scores=[-math.inf, -math.inf])])
    assert math.isnan(found["score"][0]) and found["picked"][0] == 0.5


def test_answers_count_where_the_verifier_names_any_and_none_is_one_more(tmp_path):
    found = facts_of(tmp_path, [a_group(0, [0.0] * 4, answers=["5", "5", None, None]), a_group(1, [0.0] * 4)])
    assert found["distinct"].tolist() == [0.5, 0.25]


def test_statuses_and_finish_reasons_are_counted(tmp_path):
    one = a_group(0, [0.0, 0.0], statuses=["ok", "timeout"], finish_reasons=["length", "stop"])
    found = facts_of(tmp_path, [one])
    assert (found["not_ok"][0], found["unfinished"][0]) == (1, 0.5)


def test_a_group_names_all_workers_that_sampled_some_of_it_and_an_older_file_its_one(tmp_path):
    groups = [a_group(0, [0, 1, 0], workers=["b"]), a_group(1, [1, 1, 0], workers=["b", "a", "b"])]
    assert facts_of(tmp_path, groups)["worker"] == ["b", "b, a"]
    path = tmp_path / "trajectories" / "step-000005.parquet"
    table = pq.read_table(path).drop_columns("workers")
    pq.write_table(table.append_column("worker", pa.array(["c", "d"])), path)
    assert read_facts(path, 5)["worker"] == ["c", "d"]
    assert [open_group(path, row).worker for row in range(2)] == ["c", "d"]


def test_a_damaged_file_is_named_in_one_line(tmp_path):
    path = tmp_path / "step-000001.parquet"
    path.write_bytes(b"PAR1 this is none")
    with pytest.raises(Unreadable, match="step-000001.parquet cannot be read") as error:
        read_facts(path, 1)
    assert "\n" not in str(error.value)

"""metrics.jsonl while it grows, is cut off, and is rewound."""

from __future__ import annotations

import json
import math

import numpy as np

from cluster.run_directory.record import RunRecord
from cluster.view.metrics_log import MetricsLog, last_facts, thin
from tests.shared.viewed_runs import facts


def steps_of(log):
    log.refresh()
    return log.columns().get("step", np.empty(0)).tolist()


def test_what_is_appended_is_read_and_nothing_before_it_again(tmp_path):
    record, log = RunRecord(tmp_path), MetricsLog(tmp_path / "metrics.jsonl")
    assert steps_of(log) == []
    record.append_metrics(facts(1))
    assert steps_of(log) == [1]
    record.append_metrics(facts(2, reward=0.75))
    assert steps_of(log) == [1, 2]
    assert log.columns()["reward"].tolist() == [0.5, 0.75]


def test_half_a_line_waits_for_its_other_half(tmp_path):
    path, log = tmp_path / "metrics.jsonl", MetricsLog(tmp_path / "metrics.jsonl")
    line = json.dumps(facts(1))
    path.write_text(line[:20])
    assert steps_of(log) == []
    path.write_text(line + "\n")
    assert steps_of(log) == [1]


def test_a_rewound_run_shows_its_new_steps_in_place_of_the_old(tmp_path):
    record, log = RunRecord(tmp_path), MetricsLog(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        record.append_metrics(facts(step, reward=0.1))
    assert steps_of(log) == [1, 2, 3]
    record.rewind(1)
    assert steps_of(log) == [1]
    for step in (2, 3):
        record.append_metrics(facts(step, reward=0.9))
    assert steps_of(log) == [1, 2, 3]
    assert log.columns()["reward"].tolist() == [0.1, 0.9, 0.9]


def test_a_rewind_between_two_looks_is_seen_though_the_file_is_as_long_again(tmp_path):
    record, log = RunRecord(tmp_path), MetricsLog(tmp_path / "metrics.jsonl")
    for step in (1, 2):
        record.append_metrics(facts(step, reward=0.1))
    steps_of(log)
    record.rewind(1)
    for step in (2, 3, 4):
        record.append_metrics(facts(step, reward=0.9))
    assert steps_of(log) == [1, 2, 3, 4] and log.columns()["reward"].tolist() == [0.1, 0.9, 0.9, 0.9]


def test_a_line_that_is_none_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1}\nnot json\n[1]\n{"step": "x"}\n{"no": 1}\n{"step": 2}\n'
    )
    assert steps_of(MetricsLog(tmp_path / "metrics.jsonl")) == [1, 2]


def test_a_fact_that_some_steps_lack_or_write_as_null_is_not_a_number_there(tmp_path):
    record, log = RunRecord(tmp_path), MetricsLog(tmp_path / "metrics.jsonl")
    record.append_metrics(facts(1, late=math.inf))
    record.append_metrics(facts(2, late=3.0, text="a"))
    log.refresh()
    late = log.columns()["late"]
    assert math.isnan(late[0]) and late[1] == 3.0 and np.isnan(log.columns()["text"]).all()


def test_few_steps_are_not_thinned_and_keep_their_intervals():
    steps, values = np.arange(1.0, 5.0), np.array([1.0, 2.0, np.nan, 4.0])
    plain = thin(steps, {"a": values}, {"a": (values - 1, values + 1)}, max_points=4).plain()
    assert plain["x"] == [1, 2, 3, 4] and plain["steps_per_point"] == 1
    assert plain["mean"]["a"] == [1.0, 2.0, None, 4.0]
    assert plain["low"]["a"] == [0.0, 1.0, None, 3.0] and plain["high"]["a"] == [2.0, 3.0, None, 5.0]


def test_many_steps_become_means_with_their_whole_range_so_that_no_peak_is_hidden():
    values = np.array([1.0, 2.0, 3.0, 100.0, 5.0, np.nan, -7.0])
    plain = thin(np.arange(1.0, 8.0), {"a": values}, {"a": (values, values)}, max_points=3).plain()
    assert plain["steps_per_point"] == 3 and plain["x"] == [3, 6, 7]
    assert plain["mean"]["a"] == [2.0, 52.5, -7.0]
    assert plain["low"]["a"] == [1.0, 5.0, -7.0] and plain["high"]["a"] == [3.0, 100.0, -7.0]


def test_the_last_step_is_known_without_reading_the_others(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert last_facts(path) == {}
    path.write_text("x" * 300_000 + "\n" + json.dumps(facts(7)) + "\n" + '{"step": 8, "rew')
    assert last_facts(path)["step"] == 7
    path.write_text('{"step": 8')
    assert last_facts(path) == {}

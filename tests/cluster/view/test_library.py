"""Which runs and evaluations are found, how they are called, and in which state they are."""

from __future__ import annotations

import json
import os
import time

import numpy as np
import pytest

from cluster.view import library
from cluster.view.events import read_events
from cluster.view.library import Library, Run
from tests.shared.viewed_runs import a_group, write_viewed_run

GROUPS = {1: [a_group(0, [1.0, 0.0])]}


def test_a_directory_of_runs_shows_all_of_them_the_newest_first(tmp_path):
    write_viewed_run(tmp_path / "old", GROUPS, about={"started": 1.0})
    write_viewed_run(tmp_path / "new", GROUPS, about={"started": 2.0})
    (tmp_path / "neither").mkdir()
    assert list(Library([tmp_path], None).runs) == ["new", "old"]


def test_two_runs_of_one_name_are_told_apart(tmp_path):
    paths = [write_viewed_run(tmp_path / place / "run", GROUPS) for place in ("a", "b")]
    names = list(Library(paths, None).runs)
    assert len(set(names)) == 2 and all(name.startswith("run~") for name in names)


def test_a_new_run_appears_and_a_removed_one_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(library, "FIND_EVERY_S", 0.0)
    write_viewed_run(tmp_path / "first", GROUPS)
    found = Library([tmp_path], None)
    kept = found.runs["first"]
    write_viewed_run(tmp_path / "second", GROUPS)
    found.refresh()
    assert set(found.runs) == {"first", "second"} and found.runs["first"] is kept
    (tmp_path / "first" / "run.json").unlink()
    (tmp_path / "first" / "metrics.jsonl").unlink()
    found.refresh()
    assert set(found.runs) == {"second"}


def test_a_path_that_holds_nothing_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="holds no run and no evaluation"):
        Library([tmp_path], None)
    with pytest.raises(ValueError, match="is no directory"):
        Library([tmp_path / "file"], None)


@pytest.mark.parametrize(
    ("about", "state"),
    [
        ({"stage": "ended"}, "ended"),
        ({"stage": "training", "pid": os.getpid(), "started": time.time()}, "running"),
        ({"stage": "training", "pid": 1 << 30}, "interrupted"),
        ({"stage": "training", "host": "elsewhere"}, "running elsewhere"),
    ],
)
def test_a_runs_state_is_that_of_its_driver(tmp_path, about, state):
    run_dir = write_viewed_run(tmp_path / "run", GROUPS, about=about)
    assert Run(run_dir, "run", None).state == state


@pytest.mark.parametrize(
    ("objective", "num_select", "text"),
    [
        ("num_select = 16", 16, ", N = 16"),
        ("num_select = { from = 16, to = 4, over = 9 }", 4, ", N = 16 to 4"),
        ("name = 'rloo'", 1, ""),
    ],
)
def test_a_run_says_what_it_selects_among_also_where_that_changes(tmp_path, objective, num_select, text):
    run_dir = write_viewed_run(tmp_path / "run", GROUPS)
    (run_dir / "config.toml").write_text(f"[objective]\n{objective}\n")
    run = Run(run_dir, "run", None)
    assert (run.num_select, run.num_select_text) == (num_select, text)


def test_damaged_files_of_a_run_leave_the_rest_to_be_seen(tmp_path):
    run_dir = write_viewed_run(tmp_path / "run", GROUPS)
    (run_dir / "run.json").write_text("{")
    (run_dir / "config.toml").write_text("= 1")
    run = Run(run_dir, "run", None)
    assert (run.about, run.settings, run.num_select, run.state) == ({}, {}, 1, "ended")
    (run_dir / "run.json").write_text(json.dumps({"stage": "training"}))
    assert run.state == "unknown"


def test_events_are_the_lines_of_the_controllers_log_at_the_step_they_fell_into(tmp_path):
    (tmp_path / "controller.log").write_text(
        "2026-01-01 00:00:00,000 cluster.run.controller training from step 0 on; metrics at port 1\n"
        "2026-01-01 00:00:05,000 cluster.run.progress step 1/3: reward 0.1\n"
        "2026-01-01 00:00:15,000 cluster.run.health rollout-1 was lost <script>\n"
        "  a second line of it\n"
        "2026-01-01 00:00:25,000 cluster.fleet.elastic rollout 1 -> 2: starved\n"
        "2026-01-01 00:00:35,000 cluster.run.saving checkpoint of step 3 written in 0.1 s\n"
    )
    start_s = time.mktime(time.strptime("2026-01-01", "%Y-%m-%d"))
    events = read_events(tmp_path, np.array([1, 2, 3]), start_s + np.array([10.0, 20.0, 30.0]))
    assert [(event.kind, event.step) for event in events] == [
        ("run", 1), ("warning", 2), ("scaling", 3), ("checkpoint", 3),
    ]  # fmt: skip
    assert events[1].text == "rollout-1 was lost <script>"
    assert read_events(tmp_path / "nowhere", np.empty(0), np.empty(0)) == []

"""Which run a command means."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cluster.jobs import find_run
from tests.shared.dashboards import ON
from tests.shared.run_directories import write_run


def test_what_a_cluster_without_a_dashboard_cannot_tell_is_said(on_cluster):
    on_cluster(["second"], None)
    assert find_run.find_run(None, ON).name == "second"
    with pytest.raises(
        ValueError, match="'first' is alive on .*, but second; one without a controller would not be"
    ):
        find_run.find_run("first", ON)


def test_without_a_name_the_only_run_that_is_alive_is_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no run under runs/ is alive; start one"):
        find_run.find_run(None, None)
    write_run(tmp_path / "runs/older", stage="ended", started=1.0)
    write_run(tmp_path / "runs/over", stage="ended", started=2.0)
    with pytest.raises(
        ValueError, match="alive; the newest, runs/over, has ended: its log: bonfire logs runs/over; "
    ):
        find_run.find_run(None, None)
    write_run(tmp_path / "runs/elsewhere", host="another", local=False)
    with pytest.raises(
        ValueError, match="the newest, runs/elsewhere, is driven on another: bonfire status runs/els"
    ):
        find_run.find_run(None, None)
    write_run(tmp_path / "runs/first")
    assert find_run.find_run(None, None).name == "first"
    write_run(tmp_path / "runs/second", started=time.time() + 1)
    with pytest.raises(ValueError, match="2 runs under runs/ are alive: second, first; name one"):
        find_run.find_run(None, None)


def test_a_run_is_found_by_its_directory_or_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_run(tmp_path / "runs/first")
    assert find_run.find_run("first", None).run_dir == Path("runs/first")
    assert find_run.find_run(str(path), None).run_dir == path
    with pytest.raises(ValueError, match="there is no run 'frist'"):
        find_run.find_run("frist", None)


def test_of_a_run_that_is_over_it_is_said_how_far_it_got_and_what_to_do_next(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_run(tmp_path / "runs/over", stage="ended")

    def said() -> str:
        with pytest.raises(ValueError, match="the run in runs/over has ended") as caught:
            find_run.find_run("over", None)
        return str(caught.value).removeprefix("the run in runs/over has ended ")

    go_on, look = "go on with: bonfire train --resume runs/over", "look at it with: bonfire view runs/over"
    assert said() == f"after step 0; {go_on}"
    (path / "config.toml").write_text("[train]\nsteps = 2\n[evaluation]\n")
    (path / "metrics.jsonl").write_text('{"step": 1}\n')
    assert said() == f"after step 1 of 2; {go_on}"
    (path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    assert said() == f"after step 2 of 2; {go_on}"
    (path / "report.json").write_text("{}")
    assert said() == f"after step 2 of 2; {look}"


def test_with_an_address_a_name_is_one_of_the_cluster_and_a_path_still_a_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs/first")
    monkeypatch.setattr(find_run, "names_on", lambda address: ["first"])
    there = find_run.find_run("first", "10.0.0.1:6379")
    assert (there.run_dir, there.address, there.pid) == (None, "10.0.0.1:6379", None)
    assert find_run.find_run("runs/first", "10.0.0.1:6379").run_dir == Path("runs/first")
    monkeypatch.chdir(tmp_path / "runs")
    assert find_run.find_run("first", "10.0.0.1:6379").run_dir is None
    assert find_run.find_run("first", None).run_dir == Path("first")

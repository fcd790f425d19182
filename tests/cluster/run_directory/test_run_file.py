"""Who drives a run, by its file."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest

from cluster.run_directory.run_file import RunFile, is_driven_here, read_run_file
from tests.shared.run_directories import write_run


def test_a_process_that_took_the_number_of_a_dead_driver_is_not_it():
    about = {"pid": os.getpid(), "started": psutil.Process().create_time() + 10}
    assert is_driven_here(about)
    assert not is_driven_here({**about, "started": psutil.Process().create_time() - 10})
    child = subprocess.Popen([sys.executable, "-c", ""])
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert not is_driven_here({"pid": child.pid})
    child.wait()
    assert not is_driven_here({"pid": child.pid})


def test_the_run_file_says_what_a_run_does_and_goes_if_nothing_else_came(tmp_path):
    with RunFile(tmp_path / "a", local=True) as run_file:
        run_file.update(stage="base model")
        since = read_run_file(tmp_path / "a")["stage_since"]
        run_file.update(metrics_port=1)
        about = read_run_file(tmp_path / "a")
        assert (about["stage"], about["metrics_port"], about["stage_since"]) == ("base model", 1, since)
    assert list(tmp_path.iterdir()) == []
    with RunFile(tmp_path / "b", local=True):
        (tmp_path / "b" / "config.toml").touch()
    assert read_run_file(tmp_path / "b")["stage"] == "ended"


def test_a_run_directory_is_taken_by_the_first_and_left_as_it_is_by_the_second(tmp_path):
    """Both looked when neither had begun: what one of them wrote since counts."""
    with RunFile(tmp_path / "a", local=True):
        assert read_run_file(tmp_path / "a")["stage"] == "starting"
    run_dir = write_run(tmp_path / "b", pid=os.getppid())
    before = read_run_file(run_dir)
    with (
        pytest.raises(
            ValueError, match=f"is still running .pid {os.getppid()}.: stop it first, or begin another"
        ),
        RunFile(run_dir, local=True),
    ):
        pass
    assert read_run_file(run_dir) == before
    dead = write_run(tmp_path / "c", pid=os.getppid(), started=1.0)
    with RunFile(dead, local=True):
        assert read_run_file(dead)["pid"] == os.getpid()

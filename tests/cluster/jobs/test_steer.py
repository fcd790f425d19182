"""Stopping a run that another process drives, and reading its log."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ray.job_submission import JobStatus

from cluster.commands.train import _resume_command as resume_command
from cluster.jobs import find_run, ray_jobs, steer
from cluster.run_directory.record import RUN_FILE
from tests.shared.dashboards import ON, job_details, two_jobs
from tests.shared.run_directories import write_run


class OneJob:
    """A dashboard with a job that goes through these states, one each time it is asked for."""

    def __init__(self, *states: JobStatus) -> None:
        self._states = list(states)
        self.stopped: list[str] = []

    def list_jobs(self) -> list[Any]:
        return [job_details("first", self._states[0], start_time=1)]

    def get_job_status(self, job: str) -> JobStatus:
        return self._states.pop(0)

    def stop_job(self, job: str) -> None:
        self.stopped.append(job)


@pytest.mark.parametrize(
    ("states", "error", "what"),
    [
        ((JobStatus.SUCCEEDED,), ValueError, "job first has ended already: it is SUCCEEDED"),
        ((JobStatus.FAILED,), ValueError, "job first has ended already: it is FAILED"),
        ((JobStatus.RUNNING, JobStatus.FAILED), RuntimeError, "job first FAILED as it was stopped"),
        ((JobStatus.RUNNING, JobStatus.STOPPED), None, "job first STOPPED\n"),
        ((JobStatus.RUNNING, JobStatus.SUCCEEDED), None, "job first SUCCEEDED\n"),
    ],
)
def test_a_job_that_is_ended_now_ends_as_it_is_said_to(monkeypatch, capsys, states, error, what):
    dashboard = OneJob(*states)
    monkeypatch.setattr(ray_jobs, "connect", lambda address: dashboard)
    with pytest.raises(error, match=what) if error else contextlib.nullcontext():
        steer.stop_now("first", "http://head:8265", timeout_s=5)
    assert capsys.readouterr().out == ("" if error else what)
    assert dashboard.stopped == (["first"] if states[0] is JobStatus.RUNNING else [])


def test_a_job_that_evaluates_is_stopped_by_ray_and_not_by_a_signal_that_makes_it_fail(
    tmp_path, monkeypatch, capsys
):
    dashboard = OneJob(JobStatus.RUNNING, JobStatus.STOPPED)
    signals: list[int] = []
    monkeypatch.setattr(ray_jobs, "connect", lambda address: dashboard)
    monkeypatch.setattr(os, "kill", lambda pid, number: signals.append(pid))
    run_dir = write_run(tmp_path / "first", stage="evaluation", local=False, job="first")
    steer.stop(str(run_dir), None, timeout_s=1)
    assert (dashboard.stopped, signals) == (["first"], [])
    assert capsys.readouterr().out == (
        f"{run_dir}: no controller at the moment (evaluation), so Ray ends its job first\njob first STOPPED\n"
    )


def test_a_run_without_a_controller_is_stopped_by_ray(on_cluster, capsys):
    on_cluster([], two_jobs())
    steer.stop("first", ON, timeout_s=1)
    assert capsys.readouterr().out == (
        "first: no controller at the moment (RUNNING), so Ray ends its job first-resumed-1\n"
        "job first-resumed-1 STOPPED\n"
    )
    with pytest.raises(
        ValueError, match="no run 'first' is alive on .*: job first-resumed-1 is STOPPED; its log: "
    ):
        steer.stop("first", ON, timeout_s=1)


def test_what_goes_on_names_the_address_that_was_given(on_cluster, monkeypatch, capsys):
    on_cluster([], two_jobs())
    trained = {"step": 3, "steps": 9, "run_dir": "/shared/first"}
    found = find_run.FoundRun(
        name="first", run_dir=None, address="auto", local=False, stage="", pid=None, job=None, stage_since=0.0
    )
    monkeypatch.setattr(steer, "find_run", lambda run, address: found)
    monkeypatch.setattr(steer, "ask", lambda found, method: trained)
    monkeypatch.setattr(steer, "names_on", lambda address: [])
    steer.stop("first", "auto", timeout_s=1)
    assert "go on with: bonfire train --resume /shared/first --address auto" in capsys.readouterr().out
    in_job = json.dumps({"metadata": {ray_jobs.ADDRESS_KEY: "http://head:8265"}})
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", in_job)
    steer.stop("first", "auto", timeout_s=1)
    again = "bonfire submit --resume /shared/first --address http://head:8265"
    assert f"go on with: {again}" in capsys.readouterr().out
    assert resume_command(Path("/shared/first"), "auto") == again
    for call in (
        lambda: steer.logs(None, "http://head:8265", follow=False),
        lambda: steer.stop_now(None, "http://head:8265", timeout_s=1),
    ):
        with pytest.raises(ValueError, match="NAME.* --address http://head:8265$"):
            call()


def test_the_newest_checkpoint_is_that_of_the_last_step_not_of_the_last_name(tmp_path, monkeypatch, capsys):
    driver = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    run_dir = write_run(tmp_path / "first", pid=driver.pid)
    for step in (999_999, 1_000_000):
        (run_dir / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
    monkeypatch.setattr(steer, "SECOND_SIGNAL_AFTER_S", 0.0)
    steer.stop_now(str(run_dir), None, timeout_s=20)
    driver.wait()
    assert capsys.readouterr().out.endswith("newest checkpoint: " + f"{run_dir}/checkpoints/step-1000000\n")


def test_the_log_of_a_run_of_another_machine_is_followed_to_its_end(tmp_path, monkeypatch):
    elsewhere = {"host": "elsewhere", "local": False, "pid": 1}
    run_dir = write_run(tmp_path / "first", **elsewhere)
    log = run_dir / "controller.log"
    log.write_text("step 1\n")
    written: list[str] = []

    def write(text: str) -> None:
        written.append(text)
        if len(written) == 2:
            log.write_text("step 1\nstep 2\n")
            (run_dir / RUN_FILE).write_text(json.dumps({**elsewhere, "stage": "ended"}))

    monkeypatch.setattr(steer, "_write", write)
    monkeypatch.setattr(steer, "LOOK_EVERY_S", 0.01)
    steer.logs(str(run_dir), None, follow=True)
    assert written == ["step 1\n", "", "step 2\n"]

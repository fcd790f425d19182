"""Jobs as a dashboard tells of them: followed, found by their run, and gone when their command has ended."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from ray.job_submission import JobStatus

from cluster.jobs import ray_jobs
from tests.shared.dashboards import job_details


def test_a_job_without_our_command_is_told_where_it_is_looked_for():
    message = "exit code 127, last logs:\n/bin/sh: 1: bonfire: not found\nRunning entrypoint for job a: bonfire train x"
    assert "bonfire is not on the PATH of the cluster's Ray processes" in ray_jobs.last_line(message)


class AwayAWhile:
    """A dashboard that is restarted while a job's log is followed: calls 2 to 4 find nobody."""

    def __init__(self, log: str) -> None:
        self._log = log
        self._num_calls = 0

    def _call(self) -> None:
        self._num_calls += 1
        if 2 <= self._num_calls <= 4:
            raise requests.ConnectionError

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        self._call()
        yield self._log[:5]
        if self._num_calls > 4:
            yield self._log[5:]

    def get_job_status(self, job: str) -> JobStatus:
        self._call()
        return JobStatus.SUCCEEDED if self._num_calls > 4 else JobStatus.RUNNING

    def get_job_logs(self, job: str) -> str:
        return self._log


def test_a_log_is_followed_through_a_restart_of_the_dashboard(monkeypatch):
    monkeypatch.setattr(ray_jobs, "STATUS_EVERY_S", 0.01)
    written: list[str] = []
    ray_jobs.follow(AwayAWhile("step 1\nstep 2\n"), "http://head:8265", "first", written.append)
    assert "".join(written) == "step 1\nstep 2\n"
    monkeypatch.setattr(ray_jobs, "OUTAGE_S", 0.0)
    with pytest.raises(ValueError, match="log of job first at http://head:8265 cannot be followed"):
        ray_jobs.follow(AwayAWhile("step 1\n"), "http://head:8265", "first", written.append)


def test_the_job_of_a_run_is_the_one_that_drives_it_then_the_newest():
    refused = job_details("first-resumed-1", JobStatus.FAILED, start_time=3)
    older = job_details("first-resumed-0", JobStatus.STOPPED, start_time=1)
    drives = job_details("first", JobStatus.RUNNING, start_time=2)
    for listed, expected in (([older, drives, refused], "first"), ([refused, older], "first-resumed-1")):
        dashboard = SimpleNamespace(list_jobs=lambda listed=listed: listed)
        assert ray_jobs.job_of(dashboard, "http://head:8265", "first") == expected


@pytest.mark.parametrize(
    ("entrypoint", "name"),
    [
        ("bonfire train /config/run.toml --resume auto run_dir=/shared/runs/my-run --address auto", "my-run"),
        ("bonfire train my.toml run_dir=/shared/runs/first --address auto", "first"),
        ("HF_HOME=/x bonfire train --resume /shared/runs/first train.steps=9 --address auto", "first"),
        (
            "bonfire train my.toml 'run_dir=/shared/runs/first'",
            None,
        ),
        ("bonfire train my.toml --address auto", None),
        ("bonfire eval my.toml a=/shared/runs/first", None),
        ("", None),
    ],
)
def test_a_job_that_was_made_otherwise_is_known_by_its_command(entrypoint, name):
    job = job_details("raysubmit_1", JobStatus.RUNNING, start_time=1, run=None)
    job.entrypoint = entrypoint
    assert ray_jobs.run_of(job) == name


def test_what_only_ran_a_command_is_never_offered_as_a_run():
    ended = {"status": JobStatus.FAILED, "start_time": 1}
    listed = [
        job_details("first-resumed-1", **ended),
        job_details("by-hand", run=None, **ended),
        job_details(f"{ray_jobs.COMMAND_PREFIX}status-1a2b3c4d", run=None, **ended),
        job_details(None, run=None, **ended),  # a driver without a job
    ]
    dashboard = SimpleNamespace(list_jobs=lambda: listed)
    with pytest.raises(ValueError, match="drives a run named 'x': by-hand, first$"):
        ray_jobs.job_of(dashboard, "http://head:8265", "x")
    assert ray_jobs.job_of(dashboard, "http://head:8265", "by-hand") == "by-hand"


class OneCommand:
    """A dashboard on which a command's job runs until it is stopped, or has ended; its log may be away."""

    def __init__(self, status: JobStatus, log: BaseException | str) -> None:
        self._status, self._log = status, log
        self.jobs: dict[str, dict[str, str]] = {}

    def submit_job(self, *, entrypoint: str, submission_id: str, metadata: dict[str, str]) -> None:
        self.jobs[submission_id] = {"entrypoint": entrypoint, **metadata}

    def get_job_status(self, job: str) -> JobStatus:
        return self._status

    def get_job_logs(self, job: str) -> str:
        if isinstance(self._log, BaseException):
            raise self._log
        return self._log

    def get_job_info(self, job: str) -> Any:
        return SimpleNamespace(status=self._status, message="bonfire: it is so")

    def stop_job(self, job: str) -> None:
        self._status = JobStatus.STOPPED

    def delete_job(self, job: str) -> None:
        assert self._status.is_terminal()
        del self.jobs[job]


@pytest.mark.parametrize(
    ("status", "log", "error"),
    [
        (JobStatus.SUCCEEDED, "", None),
        (JobStatus.FAILED, "", RuntimeError),
        (JobStatus.RUNNING, KeyboardInterrupt(), KeyboardInterrupt),
        (JobStatus.RUNNING, "", TimeoutError),
        (JobStatus.RUNNING, requests.ConnectionError(), ValueError),
    ],
)
def test_the_job_of_a_command_is_gone_however_it_ended(monkeypatch, status, log, error):
    dashboard = OneCommand(status, log)
    monkeypatch.setattr(ray_jobs, "connect", lambda address: dashboard)
    monkeypatch.setattr(ray_jobs, "SETTLING_S", 0.0)
    with pytest.raises(error) if error else contextlib.nullcontext():
        ray_jobs.run_there("http://head:8265", ["status"], timeout_s=0.01)
    assert dashboard.jobs == {}

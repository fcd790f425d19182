"""A dashboard that lists jobs, as a command finds it."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from ray.job_submission import JobStatus

from cluster.jobs import ray_jobs

ON = "10.0.0.1:6379"


def job_details(job: str | None, status: JobStatus, *, start_time: int, run: str | None = "first") -> Any:
    metadata = {ray_jobs.RUN_KEY: run} if run else None
    return SimpleNamespace(
        submission_id=job, metadata=metadata, status=status, start_time=start_time, entrypoint=""
    )


class Jobs:
    """A dashboard that lists these jobs; one runs on until it is stopped."""

    def __init__(self, *listed: Any, log: str = "") -> None:
        self._listed = {job.submission_id: job for job in listed}
        self._log = log

    def list_jobs(self) -> list[Any]:
        return list(self._listed.values())

    def get_job_logs(self, job: str) -> str:
        return self._log

    def get_job_status(self, job: str) -> JobStatus:
        return self._listed[job].status

    def stop_job(self, job: str) -> None:
        self._listed[job].status = JobStatus.STOPPED


def two_jobs(status: JobStatus = JobStatus.RUNNING) -> Jobs:
    """`first` drives a run that has no controller, `second` has ended."""
    since_ms = int(1e3 * (time.time() - 80))
    return Jobs(
        job_details("second", JobStatus.FAILED, start_time=since_ms + 1, run="second"),
        job_details("first-resumed-1", status, start_time=since_ms),
        log="a\nb\n\nc\nd\n",
    )

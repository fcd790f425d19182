"""Ray jobs over the dashboard's HTTP API: the client, whose every error is one line, and a job's log and end.

No token passes through here: Ray reads it from RAY_AUTH_TOKEN or the file RAY_AUTH_TOKEN_PATH, and sends it
as a header.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import PurePath
from typing import Any

from cluster.fleet.ray_cluster import quiet_stderr, set_ray_environment
from cluster.jobs.entrypoint import job_metadata
from cluster.terminal.interrupts import Interrupted

RUN_KEY = "bonfire_run"
"""Metadata of a job: the name of the run that it drives."""
COMMAND_PREFIX = "bonfire-command-"
"""Of the submission id of a job that runs a command for a moment, and drives nothing."""
ADDRESS_KEY = "bonfire_address"
"""Metadata of a job: the address at which it was asked for."""
LOG_END_LINES = 3
REMOVAL_TIMEOUT_S = 30.0
"""Ray kills a job that is asked to stop after 3 s, on a busy machine later; one that starts, once it has."""
SETTLING_S = 2.0
"""Ray looks after a job once a second, and makes one that it finds deleted anew, as FAILED, until it saw its end."""
STATUS_EVERY_S = 0.5
SILENCE_S = 60.0
OUTAGE_S = 60.0
"""For which the dashboard may be away before the following of a log ends; the job goes on."""


def is_dashboard(address: str | None) -> bool:
    """Whether an address is a dashboard's http://HEAD:8265, not a cluster's HOST:PORT."""
    return address is not None and address.startswith(("http://", "https://"))


def check_name(name: str, what: str) -> str:
    """A name that can stand in a URL, a path and a shell unquoted. Raises ValueError."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) or name.startswith(COMMAND_PREFIX):
        raise ValueError(
            f"{what} {name!r} cannot name a job: take up to 100 of letters, digits, '.', '_' and '-', a letter or "
            f"digit first, and not {COMMAND_PREFIX}"
        )
    return name


def connect(address: str) -> Any:
    """A JobSubmissionClient for the dashboard at `address`, or of the cluster at HOST:PORT.

    Raises ValueError when none answers or lets us in.
    """
    set_ray_environment(local=False)
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # RAY_ADDRESS would win over an argument
    from ray.job_submission import JobSubmissionClient

    modules = "ray.dashboard.modules"
    for logger in (
        "ray",
        f"{modules}.dashboard_sdk",
        f"{modules}.job.sdk",
    ):  # all set to INFO at their import
        logging.getLogger(logger).setLevel(logging.ERROR)
    with plainly(address), quiet_stderr():
        return JobSubmissionClient(address)


def asked_at(address: str) -> str:
    """The address as its user gave it, where a job runs the command for `run_there`; else `address`."""
    return (job_metadata() or {}).get(ADDRESS_KEY, address)


def told_address(address: str) -> dict[str, str]:
    """Metadata that tells a job its address; without one that holds a password, since everybody reads metadata."""
    return {} if "@" in address else {ADDRESS_KEY: address}


@contextmanager
def plainly(address: str) -> Iterator[None]:
    """What Ray's client raises, as ValueError in one line with the remedy."""
    import ray.exceptions
    import requests

    try:
        yield
    except BrokenPipeError:  # of whoever reads what is printed
        raise
    except ray.exceptions.AuthenticationError:
        held = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
        raise ValueError(
            f"--address {address}: the cluster does not accept {'this' if held else 'a client without its'} token: "
            "set RAY_AUTH_TOKEN_PATH to a file that holds the cluster's, or RAY_AUTH_TOKEN to it"
        ) from None
    except (ConnectionError, requests.RequestException, ray.exceptions.RayError) as error:
        raise ValueError(
            f"--address {address}: no Ray dashboard answers ({type(error).__name__}): give the head's, as in "
            "http://HEAD:8265; without --dashboard-host it listens on the head's 127.0.0.1 only, which "
            "`ssh -L 8265:127.0.0.1:8265 HEAD` brings here"
        ) from None
    except RuntimeError as error:  # a refused request, perhaps with the server's traceback
        raise ValueError(f"--address {address}: {last_line(str(error).rstrip('.'))}") from None


def run_of(job: Any) -> str | None:
    """Name of the run that a listed job drives: told by `bonfire submit`, or read from the command of a job that was
    made otherwise. None where neither says it.
    """
    if name := (job.metadata or {}).get(RUN_KEY):
        return str(name)
    directory = re.search(
        r"\bbonfire train\b.*?(?:\srun_dir=|--resume (?!auto\b))([^\s'\"]+)", job.entrypoint or ""
    )
    return PurePath(directory[1]).name if directory else None


def list_jobs(client: Any, address: str) -> list[Any]:
    """Jobs that were submitted, those that still run last, else by their start; none that only ran a command.

    What a driver left that was no job is in Ray's list too, without a submission id.
    """
    with plainly(address):
        listed = client.list_jobs()
    jobs = [job for job in listed if job.submission_id and not job.submission_id.startswith(COMMAND_PREFIX)]
    return sorted(jobs, key=lambda job: (not job.status.is_terminal(), job.start_time or 0))


def find_job(jobs: Sequence[Any], run: str) -> Any | None:
    """Of `list_jobs`, the one that drives the run of that name, or the newest that did; by its own id too."""
    return next((job for job in reversed(jobs) if run in (job.submission_id, run_of(job))), None)


def job_of(client: Any, address: str, run: str) -> str:
    """Submission id of `find_job`. Raises ValueError when there is none."""
    jobs = list_jobs(client, address)
    job = find_job(jobs, run)
    if job is None:
        known = sorted({run_of(job) or job.submission_id for job in jobs})
        raise ValueError(
            f"no job on {address} drives a run named {run!r}: {', '.join(known[:8]) or 'there are no jobs'}"
        )
    return str(job.submission_id)


def end_of_log(client: Any, address: str, job: str) -> list[str]:
    """The last lines of a job's log; none while it has not begun."""
    with plainly(address):
        lines = client.get_job_logs(job).splitlines()
    return [line for line in lines if line.strip()][-LOG_END_LINES:]


def follow(client: Any, address: str, job: str, write: Callable[[str], None]) -> None:
    """Write the job's log as it grows, until the job has ended.

    A lost connection is made again, without repeating what was written. Raises ValueError when the dashboard stays away
    for OUTAGE_S.
    """
    from aiohttp import ClientError

    written = 0
    lost_since_s: float | None = None

    async def read() -> None:
        nonlocal written
        seen = 0
        stream = client.tail_job_logs(job)
        while True:
            async with asyncio.timeout(SILENCE_S):
                text = await anext(stream, None)
            if text is None:
                return
            seen += len(text)
            if seen > written:
                write(text[written - seen :])
                written = seen

    while True:
        try:
            with suppress(TimeoutError):  # then a new connection, in case that one was dead
                asyncio.run(read())
            if client.get_job_status(job).is_terminal():
                write(client.get_job_logs(job)[written:])
                return
            lost_since_s = None
        except BrokenPipeError:  # nobody reads what is written
            raise
        except (ClientError, OSError, RuntimeError) as error:
            lost_since_s = lost_since_s or time.monotonic()
            if time.monotonic() - lost_since_s >= OUTAGE_S:
                raise ValueError(
                    f"the log of job {job} at {address} cannot be followed ({type(error).__name__}): the job goes "
                    "on without this"
                ) from error
        time.sleep(STATUS_EVERY_S)


def run_there(address: str, arguments: Sequence[str], timeout_s: float) -> None:
    """Run `bonfire ARGUMENTS --address auto` as a short job on the cluster, and print what it prints.

    For a dashboard that is in reach where the cluster's nodes are not. Raises RuntimeError when the command
    fails, with its own line, and TimeoutError. The job is gone afterwards, however this ends.
    """
    client = connect(address)
    job = f"{COMMAND_PREFIX}{arguments[0]}-{secrets.token_hex(4)}"
    try:
        info = _follow_command(client, address, job, arguments, timeout_s)
    finally:
        with suppress(
            ValueError
        ):  # a dashboard that is away; what was done is done, and what is raised says more
            _remove(client, address, job)
    if str(info.status) != "SUCCEEDED":
        raise RuntimeError(last_line(info.message))


def _follow_command(client: Any, address: str, job: str, arguments: Sequence[str], timeout_s: float) -> Any:
    """Submit, print what it prints, return what Ray knows of it at its end. Raises TimeoutError."""
    with plainly(address):
        client.submit_job(
            entrypoint=shlex.join(["bonfire", *arguments, "--address", "auto"]),
            submission_id=job,
            metadata=told_address(address),
        )
        deadline = time.monotonic() + timeout_s
        num_shown = 0
        ended = False
        while not ended:
            ended = client.get_job_status(job).is_terminal()  # before its log, which then is whole
            _, _, shown = client.get_job_logs(job).partition(f"Running entrypoint for job {job}")
            lines = shown.splitlines(keepends=True)[1:]
            if lines and not lines[-1].endswith("\n"):
                lines.pop()
            for line in lines[num_shown:]:
                if not line.startswith("bonfire: "):  # its error is raised below
                    print(line, end="", flush=True)
            num_shown = len(lines)
            if not ended and time.monotonic() > deadline:
                raise TimeoutError(
                    f"bonfire {arguments[0]} had no answer at {address} within {timeout_s:g} s: is the cluster busy?"
                )
            time.sleep(STATUS_EVERY_S)
        return client.get_job_info(job)


def _remove(client: Any, address: str, job: str) -> None:
    """End a job that runs a command, if it has not ended, and have Ray forget it. Raises ValueError."""
    with plainly(address):
        if not client.get_job_status(job).is_terminal():
            client.stop_job(job)
    wait_for_end(client, address, job, REMOVAL_TIMEOUT_S)
    time.sleep(SETTLING_S)
    with plainly(address):
        client.delete_job(job)


def wait_for_end(client: Any, address: str, job: str, timeout_s: float) -> str:
    """The job's last state. Raises ValueError when it has none in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        with plainly(address):
            state = client.get_job_status(job)
        if state.is_terminal():
            return str(state)
        if time.monotonic() > deadline:
            raise ValueError(
                f"job {job} is {state} after {timeout_s:g} s still: see bonfire logs, or wait longer"
            )
        time.sleep(STATUS_EVERY_S)


def raise_unless_succeeded(client: Any, address: str, job: str) -> None:
    """Of a job that has ended. Raises RuntimeError for FAILED, with its last line, Interrupted for STOPPED."""
    with plainly(address):
        info = client.get_job_info(job)
    if str(info.status) == "STOPPED":
        raise Interrupted(f"job {job} was STOPPED")
    if str(info.status) != "SUCCEEDED":
        raise RuntimeError(f"job {job} {info.status}: {last_line(info.message)}")


def last_line(message: str | None) -> str:
    """Of what Ray says about a job: the end of its log, where the command's own error stands."""
    lines = [
        line
        for line in (message or "").splitlines()
        if line.strip() and not line.startswith("Running entrypoint for job")  # of Ray, not always first
    ]
    if not lines:
        return "it left no message"
    if re.search(r"bonfire: (command )?not found$", lines[-1]):
        return "bonfire is not on the PATH of the cluster's Ray processes: put it there before `ray start`"
    return lines[-1].removeprefix("bonfire: ")

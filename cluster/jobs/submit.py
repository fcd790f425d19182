"""`bonfire submit`: a run as a Ray job."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.config.parse import load_config
from cluster.fleet.ray_cluster import set_ray_environment
from cluster.jobs import ray_jobs
from cluster.terminal.interrupts import Interrupted

EXCLUDES = (".git", ".venv", "venv", "__pycache__", "runs")
"""Beside what .gitignore and .rayignore in the directory leave out, and the file of Ray's token."""
STOP_WAIT_S = 300
"""Between the SIGTERM of `ray job stop` and its SIGKILL: time for a step and a checkpoint. Ray's own is 3 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What is asked of the cluster."""

    job: str
    entrypoint: str
    runtime_env: dict[str, Any]
    metadata: dict[str, str]


def plan(
    config: Path | None,
    overrides: Sequence[str],
    *,
    resume: Path | None,
    auto: bool = False,
    name: str | None,
    runs: Path | None,
    working_dir: Path,
    now: time.struct_time,
) -> Submission:
    """The job that trains as `config` says, or goes on in the directory `resume`; `auto`: what the directory asks for.

    A run's name is the last part of its directory: `name` in `runs`, or the setting run_dir. Raises
    ValueError, in one line, for what would fail or lose its results on the cluster.
    """
    if not working_dir.is_dir():
        raise ValueError(f"--working-dir {working_dir} is no directory")
    if name is not None:
        ray_jobs.check_name(name, "--name")
    stamp = time.strftime("%Y%m%d-%H%M%S", now)
    if resume is not None:
        if config is not None:
            raise ValueError("--resume takes the settings of the run itself: give it without CONFIG")
        if not resume.is_absolute():
            raise ValueError(f"--resume {resume} is relative: give the path that the cluster's nodes see")
        job = name or f"{resume.name}-resumed-{stamp}"
        run = ray_jobs.check_name(resume.name, "--resume")
        command = ["train", "--resume", str(resume), *overrides]
    elif config is None:
        raise ValueError("CONFIG is missing: give a TOML file in --working-dir, or --resume RUN_DIR")
    else:
        settings = load_config(config, overrides)
        configured = settings.run_dir
        if settings.sft is not None and not Path(settings.model).is_absolute():
            raise ValueError(
                f"model = {settings.model!r} is relative, and [sft] would make it in the job's own directory, which goes "
                "when it ends: set model=/PATH/THAT/ALL/NODES/SEE/NAME"
            )
        if auto and not configured and name is None:
            raise ValueError(
                "--resume auto needs the same run directory each time: give --name, or run_dir=/PATH/NAME"
            )
        run_dir = _run_dir(configured, config, name, runs, stamp)
        run = ray_jobs.check_name(run_dir.name, "run_dir's last part")
        job = f"{run}-{stamp}" if auto else run
        given = [override for override in overrides if override.partition("=")[0].strip() != "run_dir"]
        going_on = ["--resume", "auto"] if auto else []
        command = ["train", _inside(config, working_dir), *going_on, *given, f"run_dir={run_dir}"]
    return Submission(
        job=job,
        entrypoint=shlex.join(["bonfire", *command, "--address", "auto"]),
        runtime_env={
            "working_dir": str(working_dir),
            "excludes": [*EXCLUDES, *_token_within(working_dir)],
            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)},
        },
        metadata={ray_jobs.RUN_KEY: run},
    )


def _run_dir(configured: str, config: Path, name: str | None, runs: Path | None, stamp: str) -> Path:
    remedy = (
        "a job's own directory goes when it ends; give --runs /PATH/THAT/ALL/NODES/SEE, or run_dir=/PATH/NAME"
    )
    if configured:
        path = Path(configured)
        if runs is not None or (name is not None and name != path.name):
            raise ValueError(
                f"run_dir = {configured!r} says already where the run is and what it is called: leave out --runs "
                "and --name, or run_dir"
            )
    elif runs is not None:
        path = runs / (name or f"{config.stem}-{stamp}")
    else:
        raise ValueError(f"run_dir is not set: {remedy}")
    if not path.is_absolute():
        raise ValueError(f"run_dir = {str(path)!r} is relative: {remedy}")
    return path


def _inside(config: Path, working_dir: Path) -> str:
    try:
        return str(config.resolve().relative_to(working_dir.resolve()))
    except ValueError:
        raise ValueError(
            f"config {config} is not in --working-dir {working_dir}, so it would not be uploaded: move it, or give a "
            "directory that holds it"
        ) from None


def _token_within(working_dir: Path) -> list[str]:
    """The file of the token, if it is in there, as a pattern like those of .gitignore."""
    token = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not token or not Path(token).resolve().is_relative_to(working_dir.resolve()):
        return []
    return [f"/{Path(token).resolve().relative_to(working_dir.resolve())}"]


def upload_size(working_dir: Path, excludes: Sequence[str]) -> tuple[int, int]:
    """Number and bytes of the files that Ray will upload; it stores them uncompressed."""
    # Ray counts nothing before it has packed everything; these two decide what it packs.
    from ray._private.ray_constants import RAY_RUNTIME_ENV_IGNORE_GITIGNORE
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    sizes: list[int] = []

    def count(path: Path) -> None:
        if path.is_file():
            sizes.append(path.stat().st_size)

    _dir_travel(
        working_dir,
        [_get_excludes(working_dir, list(excludes))],
        count,
        include_gitignore=os.environ.get(RAY_RUNTIME_ENV_IGNORE_GITIGNORE) != "1",
    )
    return len(sizes), sum(sizes)


def submit(submission: Submission, address: str, *, dry_run: bool, wait: bool) -> None:
    """Upload, submit, follow the log. Returns when the job has SUCCEEDED.

    Raises RuntimeError when it FAILED, Interrupted when it was STOPPED or Ctrl-C ended the following.
    """
    console = Console(highlight=False, markup=False, soft_wrap=True)
    set_ray_environment(local=False)
    client = None if dry_run else ray_jobs.connect(address)  # first: packing may take long
    _check_size(submission, console)
    if client is None:
        console.print(f"job          {submission.job}")
        console.print(f"entrypoint   {submission.entrypoint}")
        console.print(f"runtime_env  {json.dumps(submission.runtime_env)}")
        return
    with ray_jobs.plainly(address):
        if submission.job in {job.submission_id for job in client.list_jobs()}:
            raise ValueError(
                f"job {submission.job!r} exists on {address} already, and a name is used once: give another --name, or go "
                "on with its run by --resume RUN_DIR or --resume auto"
            )
        client.submit_job(
            entrypoint=submission.entrypoint,
            submission_id=submission.job,
            runtime_env=submission.runtime_env,
            metadata={**submission.metadata, **ray_jobs.told_address(address)},
        )
    run = submission.metadata[ray_jobs.RUN_KEY]
    console.print(f"submitted job {submission.job}, which drives run {run}")
    how = (
        f"bonfire logs {run} --follow --address {address}; "
        f"bonfire status {run} --address {address}; bonfire stop {run} --address {address}"
    )
    if not wait:
        console.print(f"it goes on by itself: {how}")
        return
    try:
        ray_jobs.follow(client, address, submission.job, _write)
    except KeyboardInterrupt:
        raise Interrupted(f"no longer following; the job goes on: {how}") from None
    ray_jobs.raise_unless_succeeded(client, address, submission.job)
    console.print(f"job {submission.job} SUCCEEDED")


def _check_size(submission: Submission, console: Console) -> None:
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

    directory = Path(submission.runtime_env["working_dir"])
    num_files, num_bytes = upload_size(directory, submission.runtime_env["excludes"])
    size = f"{num_files:,} files, {num_bytes / 2**20:,.1f} MiB"
    if num_bytes >= GCS_STORAGE_MAX_SIZE:
        raise ValueError(
            f"--working-dir {directory} is {size} to upload, Ray takes less than {GCS_STORAGE_MAX_SIZE / 2**20:,.0f} "
            "MiB: name what a job does not need in .rayignore, and put data and models on a shared path"
        )
    console.print(f"uploading {directory.resolve()}: {size}")


def _write(text: str) -> None:
    print(text, end="", flush=True)

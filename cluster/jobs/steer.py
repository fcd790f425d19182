"""`bonfire scale`, `stop` and `logs`: a run that another process drives."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from cluster.jobs import ray_jobs
from cluster.jobs.asking import ask
from cluster.jobs.find_run import FoundRun, find_run, local_directory
from cluster.jobs.joining import disconnect, names_on
from cluster.run_directory.record import finished_checkpoints, step_of
from cluster.run_directory.run_file import is_driven_elsewhere, is_driven_here, read_run_file
from cluster.terminal.console import duration

HEAD = "http://HEAD:8265"
"""Stands for a dashboard's address that is not known."""
LOOK_EVERY_S = 0.5
TELL_EVERY_S = 10.0
SECOND_SIGNAL_AFTER_S = 2.0
"""Equal signals that come together are delivered once."""


def scale(run: str | None, address: str | None, *, rollout: int | None, verifier: int | None) -> None:
    """Ask a run for other numbers of workers, and print old and new. Raises ValueError when it refuses."""
    wanted = {
        role: count for role, count in (("rollout", rollout), ("verifier", verifier)) if count is not None
    }
    if not wanted:
        raise ValueError("nothing to scale: give --rollout or --verifier, or both")
    for role, count in wanted.items():
        if count < 1:
            raise ValueError(f"--{role} {count} is no number of workers: give 1 or more")
    found = find_run(run, address)
    before = ask(found, "facts")["targets"]
    after = ask(found, "scale", rollout, verifier)
    changes = [f"{role} workers {before[role]} -> {after[role]}" for role in wanted]
    print(f"{found.label}: {', '.join(changes)}")
    if found.local and any(after[role] > before[role] for role in wanted):
        print(
            "a cluster of this machine alone has no more CPUs than it began with: what they do not suffice for waits "
            "(bonfire status says so; start with a lower rollout.num_cpus, or with [scaling])"
        )


def stop(run: str | None, address: str | None, *, timeout_s: float) -> None:
    """Have a run finish its step and write a checkpoint; return when it has ended.

    Raises RuntimeError when it ends without a checkpoint of its last step, or not in time.
    """
    found = find_run(run, address)
    if not found.has_controller:
        _interrupt(found, address, timeout_s)
        return
    facts = ask(found, "facts")
    step_asked, run_dir = facts["step"], Path(facts["run_dir"])
    ask(found, "stop")
    if found.local:
        disconnect()  # its Ray goes with it, and would take this process along
    print(
        f"{found.label}: asked to stop at step {step_asked}/{facts['steps']}, finishing the step", flush=True
    )
    _wait_while(lambda: _is_driven(found) if found.pid else _trains(found), found, timeout_s)
    again = _resume_command(found, address, run_dir)
    if run_dir.is_dir():
        checkpoint = _newest_checkpoint(run_dir)
        if checkpoint is None or step_of(checkpoint) < step_asked:
            raise RuntimeError(
                f"{found.label} ended without a checkpoint of step {step_asked}; why is in {run_dir}/controller.log; "
                f"go on from an older one with: {again}"
            )
        print(f"checkpoint  {checkpoint}")
    else:
        print(f"checkpoint  under {run_dir}/checkpoints, not seen from here")
    print(f"stopped; go on with: {again}")


def stop_now(run: str | None, address: str | None, *, timeout_s: float) -> None:
    """End a run by signals: a job by Ray, which allows it a checkpoint, a process of this machine at once."""
    directory = local_directory(run, address) if run else None
    if address and not directory:
        if run is None:
            raise ValueError(f"--now ends a job by its name: bonfire stop NAME --now --address {address}")
        _stop_job(run, None, address, timeout_s)
        return
    found = find_run(run, None)
    if found.job:
        _stop_job(found.name, found.job, address or found.address, timeout_s)
        return
    if found.pid is None:
        raise ValueError(
            f"{found.label} is driven by a process of another machine: end it there, or without --now"
        )
    os.kill(found.pid, signal.SIGTERM)
    time.sleep(SECOND_SIGNAL_AFTER_S)
    if _is_driven(found):
        os.kill(found.pid, signal.SIGTERM)
    _wait_while(lambda: _is_driven(found), found, timeout_s)
    newest = _newest_checkpoint(found.run_dir or Path())
    print(f"{found.label} ended at once; newest checkpoint: {newest or 'none'}")


def _newest_checkpoint(run_dir: Path) -> Path | None:
    return max(finished_checkpoints(run_dir), key=step_of, default=None)


def _resume_command(found: FoundRun, address: str | None, run_dir: Path) -> str:
    """The command that goes on with a run that was stopped, at the address that was given."""
    given = ray_jobs.asked_at(address or found.address)
    if found.local:
        return f"bonfire train --resume {found.run_dir or run_dir}"
    if ray_jobs.is_dashboard(given):
        return f"bonfire submit --resume {run_dir} --address {given}"
    if found.job:
        return f"bonfire submit --resume {run_dir} --address {HEAD}"
    return f"bonfire train --resume {run_dir} --address {given}"


def _stop_job(run: str, job: str | None, address: str, timeout_s: float) -> None:
    client = ray_jobs.connect(address)
    job = job or ray_jobs.job_of(client, address, run)
    with ray_jobs.plainly(address):
        if (state := client.get_job_status(job)).is_terminal():
            raise ValueError(f"job {job} has ended already: it is {state}")
        client.stop_job(job)
    ended = ray_jobs.wait_for_end(client, address, job, timeout_s)
    if ended == "FAILED":
        log = f"bonfire logs {run} --address {ray_jobs.asked_at(address)}"
        raise RuntimeError(f"job {job} FAILED as it was stopped: see {log}")
    print(f"job {job} {ended}")


def logs(run: str | None, address: str | None, *, follow: bool) -> None:
    """Print the log of a job on a cluster, or the controller's of a run directory."""
    directory = local_directory(run, address) if run else None
    if address and not directory:
        if run is None:
            raise ValueError(f"the log of a job is found by its name: bonfire logs NAME --address {address}")
        client = ray_jobs.connect(address)
        job = ray_jobs.job_of(client, address, run)
        if follow:
            ray_jobs.follow(client, address, job, _write)
            return
        with ray_jobs.plainly(address):
            _write(client.get_job_logs(job))
        return
    directory = directory or find_run(run, None).run_dir
    assert directory is not None  # without an address a run is found by its directory
    path = directory / "controller.log"
    if not path.is_file():
        raise ValueError(f"{path} is not there: the log begins with the training")
    with path.open() as file:
        while True:
            about = read_run_file(directory)
            alive = follow and (is_driven_here(about) or is_driven_elsewhere(about))
            _write(file.read())
            if not alive:
                return
            time.sleep(LOOK_EVERY_S)


def _write(text: str) -> None:
    print(text, end="", flush=True)


def _interrupt(found: FoundRun, address: str | None, timeout_s: float) -> None:
    """End a run that is at a stage without a controller; a job by Ray, which else would call it FAILED."""
    if found.job and found.address:
        print(
            f"{found.label}: no controller at the moment ({found.stage}), so Ray ends its job {found.job}",
            flush=True,
        )
        _stop_job(found.name, found.job, found.address, timeout_s)
        return
    if found.pid is None:
        raise ValueError(
            f"{found.label} is at stage {found.stage!r} on another machine: "
            f"bonfire stop {found.name} --now --address {address or HEAD} ends its job"
        )
    os.kill(found.pid, signal.SIGTERM)
    print(f"{found.label}: interrupting it at stage {found.stage!r}", flush=True)
    _wait_while(lambda: _is_driven(found), found, timeout_s)
    print("interrupted")


def _trains(found: FoundRun) -> bool:
    return found.name in names_on(found.address)


def _is_driven(found: FoundRun) -> bool:
    """By a process of this machine."""
    return found.run_dir is not None and is_driven_here(read_run_file(found.run_dir))


def _wait_while(goes_on: Callable[[], bool], found: FoundRun, timeout_s: float) -> None:
    started_s = told_s = time.monotonic()
    while goes_on():
        now_s = time.monotonic()
        if now_s > started_s + timeout_s:
            raise RuntimeError(
                f"{found.label} has not ended within {timeout_s:g} s: it still means to; wait longer with --timeout, "
                "or end it with --now"
            )
        if now_s > told_s + TELL_EVERY_S:
            told_s = now_s
            print(f"still finishing, {duration(now_s - started_s)}", flush=True)
        time.sleep(LOOK_EVERY_S)

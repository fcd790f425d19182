"""Runs that another shell submits, finds, watches and ends: pure rules first, then a real cluster of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import requests
import tomli_w
from ray.job_submission import JobStatus

from cluster.commands.train import _resume_command as resume_command
from cluster.fleet.ray_cluster import quiet_stderr, set_ray_environment
from cluster.jobs import asking, find_run, joining, ray_jobs, steer, submit
from cluster.jobs.entrypoint import check_outlives_job
from cluster.jobs.status import describe_workers, show_all, show_status
from cluster.run_directory.record import RUN_FILE
from cluster.run_directory.run_file import RunFile, is_driven_here, read_run_file
from tests.shared.paths import ROOT
from tests.shared.user_cluster import PATIENCE_S, Cluster, started_cluster

NOON = time.struct_time((2026, 11, 21, 12, 0, 0, 5, 325, 0))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "my run.toml"
    path.write_text('model = "m"\n')
    return path


def plan(config: Path | None, *overrides: str, **settings: Any) -> submit.Submission:
    defaults = {"resume": None, "name": None, "runs": Path("/shared"), "working_dir": Path.cwd(), "now": NOON}
    if config:
        defaults["working_dir"] = config.parent
    return submit.plan(config, overrides, **{**defaults, **settings})


def test_what_reaches_the_shell_is_quoted(config):
    planned = plan(config, 'model=a b;touch "x"$(id)', name="first")
    assert shlex.split(planned.entrypoint) == [
        "bonfire", "train", "my run.toml", 'model=a b;touch "x"$(id)', "run_dir=/shared/first",
        "--address", "auto",
    ]  # fmt: skip
    assert subprocess.run(
        ["sh", "-c", planned.entrypoint.replace("bonfire", "printf '%s\\n'", 1)],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines() == shlex.split(planned.entrypoint)[1:]  # fmt: skip


def test_a_stopped_job_has_time_for_its_checkpoint(config):
    assert plan(config, name="first").runtime_env["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "300"}


def test_job_run_and_directory_have_one_name(config):
    planned = plan(config, "run_dir=/shared/x/first", runs=None)
    assert (planned.job, planned.metadata[ray_jobs.RUN_KEY]) == ("first", "first")
    config = config.rename(config.with_name("my.toml"))
    assert plan(config).job == "my-20261121-120000"
    resumed = plan(None, resume=Path("/shared/first"))
    assert (resumed.job, resumed.metadata[ray_jobs.RUN_KEY]) == ("first-resumed-20261121-120000", "first")
    assert resumed.entrypoint == "bonfire train --resume /shared/first --address auto"


def test_a_submission_that_may_be_repeated_names_each_job_anew_and_the_run_alike(config):
    config = config.rename(config.with_name("my.toml"))
    planned = plan(config, "train.steps=5", auto=True, name="first")
    assert (planned.job, planned.metadata[ray_jobs.RUN_KEY]) == ("first-20261121-120000", "first")
    assert planned.entrypoint == (
        "bonfire train my.toml --resume auto train.steps=5 run_dir=/shared/first --address auto"
    )
    with pytest.raises(ValueError, match="--resume auto needs the same run directory each time: give --name"):
        plan(config, auto=True)


@pytest.mark.parametrize(
    ("overrides", "settings", "what"),
    [
        ((), {"runs": None, "name": "a"}, "run_dir is not set: a job's own directory goes when it ends"),
        ((), {"runs": Path("runs"), "name": "a"}, "run_dir = 'runs/a' is relative"),
        (("run_dir=runs/a",), {"runs": None}, "run_dir = 'runs/a' is relative"),
        (("run_dir=/x/a",), {"runs": None, "name": "b"}, "leave out --runs and --name"),
        ((), {"name": "a;b"}, "--name 'a;b' cannot name a job"),
        ((), {"name": "../a"}, "--name '../a' cannot name a job"),
        ((), {"name": "-a"}, "--name '-a' cannot name a job"),
        (("train.setps=1",), {"name": "a"}, "did you mean train.steps?"),
        (("sft.steps=9", "model=base"), {"name": "a"}, "model = 'base' is relative, and [sft] would make it"),
        ((), {"name": "a", "working_dir": Path("/usr/lib")}, "is not in --working-dir /usr/lib"),
        ((), {"resume": Path("/shared/a")}, "give it without CONFIG"),
    ],
)
def test_what_would_fail_or_be_lost_on_the_cluster_is_refused_here(config, overrides, settings, what):
    with pytest.raises(ValueError) as error:
        plan(config, *overrides, **settings)
    assert what in str(error.value) and "\n" not in str(error.value)


def test_a_job_without_our_command_is_told_where_it_is_looked_for():
    message = "exit code 127, last logs:\n/bin/sh: 1: bonfire: not found\nRunning entrypoint for job a: bonfire train x"
    assert "bonfire is not on the PATH of the cluster's Ray processes" in ray_jobs.last_line(message)


def test_the_upload_leaves_out_what_a_job_does_not_need(tmp_path):
    for name in (
        "mine.py",
        ".venv/lib.py",
        "runs/a/big.bin",
        "pkg/__pycache__/x.pyc",
        "data/ignored.bin",
        "pkg/a.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * 100)
    (tmp_path / ".rayignore").write_text("data/\n")
    num_files, num_bytes = submit.upload_size(tmp_path, submit.EXCLUDES)
    assert (num_files, num_bytes) == (3, 206)


def test_the_token_of_the_cluster_is_not_uploaded(config, monkeypatch):
    (config.parent / "pkg").mkdir()
    for name in ("token", "pkg/token"):
        (config.parent / name).write_text("secret")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(config.parent / "token"))
    planned = plan(config, name="first")
    num_files, _ = submit.upload_size(config.parent, planned.runtime_env["excludes"])
    assert num_files == 2  # the config, and what is called the same elsewhere
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/home/me/token")
    assert plan(config, name="first").runtime_env["excludes"] == list(submit.EXCLUDES)


def test_in_a_job_a_relative_run_directory_is_refused(monkeypatch):
    check_outlives_job(Path("runs/a"))
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    check_outlives_job(Path("/shared/runs/a"))
    with pytest.raises(ValueError, match="run_dir = 'runs/a' is relative: in a Ray job"):
        check_outlives_job(Path("runs/a"))


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


def job_details(job: str | None, status: JobStatus, *, start_time: int, run: str | None = "first") -> Any:
    metadata = {ray_jobs.RUN_KEY: run} if run else None
    return SimpleNamespace(
        submission_id=job, metadata=metadata, status=status, start_time=start_time, entrypoint=""
    )


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


@pytest.fixture
def on_cluster(monkeypatch) -> Callable[..., None]:
    """A cluster on which these runs have controllers, and that has this dashboard."""

    def make(training: list[str], dashboard: Jobs | None) -> None:
        monkeypatch.setattr(find_run, "names_on", lambda address: training)
        monkeypatch.setattr(find_run, "dashboard_of", lambda address: dashboard and "http://head:8265")
        monkeypatch.setattr(ray_jobs, "connect", lambda address: dashboard)

    return make


ON = "10.0.0.1:6379"


def two_jobs(status: JobStatus = JobStatus.RUNNING) -> Jobs:
    """`first` drives a run that has no controller, `second` has ended."""
    since_ms = int(1e3 * (time.time() - 80))
    return Jobs(
        job_details("second", JobStatus.FAILED, start_time=since_ms + 1, run="second"),
        job_details("first-resumed-1", status, start_time=since_ms),
        log="a\nb\n\nc\nd\n",
    )


@pytest.mark.parametrize("status", [JobStatus.RUNNING, JobStatus.PENDING])
def test_a_run_without_a_controller_is_shown_by_its_job(on_cluster, capsys, status):
    on_cluster([], two_jobs(status))
    show_status("first", ON, as_json=False)
    shown = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        f"first   no controller at the moment: job first-resumed-1 is {status} for 1:2[0-9]; the end of its log:",
        shown[0],
    )
    assert shown[1:] == ["  b", "  c", "  d"]
    show_status(None, ON, as_json=True)
    facts = json.loads(capsys.readouterr().out)
    told = {name: facts[name] for name in ("name", "run_dir", "address", "stage", "job", "log")}
    assert told == {
        "name": "first", "run_dir": None, "address": ON, "stage": str(status), "job": "first-resumed-1",
        "log": ["b", "c", "d"],
    }  # fmt: skip
    with pytest.raises(ValueError, match=f"no controller at the moment .job first-resumed-1 is {status}"):
        steer.scale("first", ON, rollout=2, verifier=None)


def test_a_list_has_the_runs_without_a_controller_and_each_run_once(on_cluster, monkeypatch, capsys):
    on_cluster(["other", "second"], two_jobs())
    monkeypatch.setattr(asking, "ask", lambda found, method: {"stage": "training", "step": 3, "steps": 9})
    show_all(ON)
    shown = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [line[0] for line in shown] == ["other", "second", "first"]
    assert " ".join(shown[2]).startswith("first no controller, for 1:2")
    assert shown[2][-2:] == ["job", "RUNNING"]
    assert find_run.find_run("first-resumed-1", ON).name == "first"
    on_cluster(["other", "second", "first"], two_jobs())
    show_all(ON)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == [
        "other",
        "second",
        "first",
    ]
    assert find_run.find_run("first-resumed-1", ON).has_controller


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


def test_what_a_cluster_without_a_dashboard_cannot_tell_is_said(on_cluster):
    on_cluster(["second"], None)
    assert find_run.find_run(None, ON).name == "second"
    with pytest.raises(
        ValueError, match="'first' is alive on .*, but second; one without a controller would not be"
    ):
        find_run.find_run("first", ON)


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


def write_run(run_dir: Path, **facts: Any) -> Path:
    run_dir.mkdir(parents=True)
    about = {
        "name": run_dir.name, "pid": os.getpid(), "host": socket.gethostname(), "started": time.time(),
        "local": True, "stage": "training", "stage_since": time.time(), "address": "127.0.0.1:1", "job": None,
    }  # fmt: skip
    (run_dir / RUN_FILE).write_text(json.dumps({**about, **facts}))
    return run_dir


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
    write_run(tmp_path / "runs/over", stage="ended")
    with pytest.raises(ValueError, match="the run in runs/over has ended"):
        find_run.find_run("over", None)


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


def test_a_list_of_runs_asks_each_on_its_own_cluster(tmp_path, monkeypatch, capsys):
    """Ray joins one cluster at a time, and goes on asking that one."""
    joined: list[str] = []

    def ask(found: find_run.FoundRun, method: str) -> dict[str, Any]:
        if not joined:
            joined.append(found.address)
        if joined != [found.address]:
            raise ValueError(f"no controller answers for {found.label}")
        return {"stage": "training", "step": 3, "steps": 9}

    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs/on-a-cluster", local=False, address="10.0.0.1:6379", started=time.time() + 1)
    write_run(tmp_path / "runs/alone")
    monkeypatch.setattr(asking, "ask", ask)
    monkeypatch.setattr(joining, "disconnect", joined.clear)
    show_all(None)
    shown = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert shown == [["runs/on-a-cluster", "training", "3/9"], ["runs/alone", "training", "3/9"]]


def test_status_says_what_workers_do_what_is_waited_for_and_what_was_decided():
    def worker(name: str, pid: int, startup_s: dict[str, float], **facts: Any) -> dict[str, Any]:
        node = {"node_id": "1a2b3c4d5e" if pid else ""}
        state = {"leaving": False, "silent": False, "startup_s": startup_s}
        return {"name": name, "pid": pid, **state, **node, **facts}

    facts = {
        "rollout_workers": [
            worker("rollout-0", 10, {"placed": 1.0}, serving=True, version=7),
            worker("rollout-1", 11, {"placed": 1.0}, serving=True, version=6, leaving=True),
            worker("rollout-2", 0, {}, serving=False, version=-1),
        ],
        "verifier_workers": [
            worker("verifier-0", 12, {"placed": 1.0, "verifiers": 2.0}),
            worker("verifier-1", 13, {"placed": 1.0}),
            worker("verifier-2", 14, {"placed": 1.0, "verifiers": 2.0}, silent=True),
        ],
        "learner_ranks": [{"pid": 15, "node_id": "1a2b3c4d5e"}],
        "waiting_for": ["1 rollout worker (1 CPU)"],
        "decisions": ["rollout 1 -> 2: asked for by command"],
        "targets": {"rollout": 2, "verifier": 2},
        "restarts": {"rollout": 1, "verifier": 0},
    }
    assert describe_workers(facts) == [
        "rollout-0: pid 10, serves version 7",
        "rollout-1: pid 11, serves version 6, leaving",
        "rollout-2: no process yet, starting",
        "verifier-0: pid 12, judges",
        "verifier-1: pid 13, starting",
        "verifier-2: pid 14, does not answer",
        "learner: pid 15",
        "waiting for resources: 1 rollout worker (1 CPU)",
        "scaled: rollout 1 -> 2: asked for by command",
        "wanted: 2 rollout, 2 verifier workers",
        "replaced: 1 rollout, 0 verifier workers",
    ]
    facts["learner_ranks"].append({"pid": 16, "node_id": "ffffffff00"})
    lines = describe_workers(facts)
    assert lines[0] == "rollout-0: pid 10 on node 1a2b3c4d, serves version 7"
    assert lines[2] == "rollout-2: no process yet, starting"
    assert lines[6:8] == [
        "learner rank 0: pid 15 on node 1a2b3c4d",
        "learner rank 1: pid 16 on node ffffffff",
    ]


def test_status_ends_with_the_events(tmp_path, monkeypatch, capsys):
    events = ["10:00:00 rollout-0 is lost: killed", "10:00:09 no step for 60 s"]
    facts = {
        "stage": "training", "step": 0, "steps": 9, "num_select": 4, "metrics_url": "", "events": events,
        "groups": {"buffered": 2}, "rollout_workers": [], "verifier_workers": [], "learner_ranks": [],
        "waiting_for": [], "decisions": [], "targets": {"rollout": 1, "verifier": 1},
        "restarts": {"rollout": 0, "verifier": 0},
    }  # fmt: skip
    monkeypatch.setattr(asking, "ask", lambda found, method: facts)
    show_status(str(write_run(tmp_path / "first")), None, as_json=False)
    assert capsys.readouterr().out.splitlines()[-2:] == [f"  {event}" for event in events]


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


def test_a_token_file_that_is_not_there_is_named_before_ray_starts(tmp_path, monkeypatch):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(ValueError, match="RAY_AUTH_TOKEN_PATH = '.*/token' is no file: "):
        set_ray_environment(local=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    set_ray_environment(local=False)


def test_what_ray_writes_while_a_cluster_is_joined_is_not_shown(capfd):
    with quiet_stderr():
        os.write(2, b"gcs_client.cc: Failed to get cluster ID")
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with started_cluster() as cluster:
        yield cluster


def one_line(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("bonfire: "), stderr
    return lines[0]


@pytest.fixture
def project(tmp_path: Path, tiny_model: Path) -> Path:
    return make_project(tmp_path / "project", tiny_model)


def make_project(path: Path, model: Path, **sections: dict[str, Any]) -> Path:
    """A directory with a config of a run that goes on until it is stopped."""
    path.mkdir()
    settings = {
        "model": str(model),
        "problems": {"num_train": 10},
        "rollout": {
            "samples_per_prompt": 8, "max_tokens": 8, "max_model_len": 64, "max_num_seqs": 64, "kv_cache_mib": 16,
        },
        "objective": {"num_select": 4},
        "train": {"steps": 100_000, "groups_per_step": 4, "max_staleness": 0},
        "metrics": {"port": 0},
    }  # fmt: skip
    (path / "tiny.toml").write_text(tomli_w.dumps({**settings, **sections}))
    return path


def test_a_dry_run_prints_entrypoint_and_runtime_env_and_asks_no_cluster(cluster, project, tmp_path):
    options = ("--address", "http://127.0.0.1:1", "--runs", tmp_path, "--name", "first", "--dry-run")
    code, out, err = cluster.bonfire("submit", "tiny.toml", *options, cwd=project)
    assert code == 0, err
    assert f"bonfire train tiny.toml run_dir={tmp_path}/first --address auto" in out
    assert '"RAY_JOB_STOP_WAIT_TIME_S": "300"' in out and "1 files" in out


def test_a_cluster_that_does_not_let_us_in_is_one_line(cluster, project, tmp_path):
    def submit_to(address: str, **changes: str) -> str:
        options = ("--address", address, "--runs", tmp_path)
        code, _, err = cluster.bonfire("submit", "tiny.toml", *options, cwd=project, **changes)
        assert code == 1
        return one_line(err)

    wrong = tmp_path / "wrong-token"
    wrong.write_text("not-the-token-of-this-cluster")
    refused = submit_to(cluster.dashboard, RAY_AUTH_TOKEN_PATH=str(wrong))
    assert "does not accept this token" in refused and "not-the-token" not in refused
    missing = submit_to(cluster.dashboard, RAY_AUTH_TOKEN_PATH="", RAY_AUTH_MODE="disabled")
    assert "a client without its token" in missing and "RAY_AUTH_TOKEN_PATH" in missing
    assert "no Ray dashboard answers" in submit_to("http://127.0.0.1:1")
    assert "is no dashboard" in submit_to(cluster.gcs)


@pytest.mark.slow
def test_a_cluster_that_is_not_there_or_has_another_token_is_one_line_at_once(cluster, project):
    wrong = project / "wrong-token"
    wrong.write_text("not-the-token-of-this-cluster")
    for command in (("status",), ("train", "tiny.toml", "run_dir=run")):
        code, _, err = cluster.bonfire(
            *command, "--address", cluster.gcs, cwd=project, RAY_AUTH_TOKEN_PATH=str(wrong)
        )
        assert code == 1 and "no Ray cluster lets us in" in (line := one_line(err))
        assert "its token is another" in line
    for command in (("status",), ("train", "tiny.toml", "run_dir=run")):
        code, _, err = cluster.bonfire(*command, "--address", "127.0.0.1:1", cwd=project)
        assert code == 1 and "no Ray cluster lets us in" in (line := one_line(err))
        assert "Connection refused" in line


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_that_makes_its_base_model_is_shown_and_ended_from_a_node_and_from_the_dashboard(
    cluster, tmp_path
):
    config = ROOT / "examples" / "countdown.toml"
    project = tmp_path / "project"
    project.mkdir()
    shutil.copy(config, project)
    settings = (f"model={tmp_path}/base", "metrics.port=0", "--runs", tmp_path)
    for name in ("one", "two"):
        code, _, err = cluster.bonfire(
            "submit", config.name, *settings, "--name", name, "--no-follow", "--address", cluster.dashboard,
            cwd=project,
        )  # fmt: skip
        assert code == 0, err
        wait_for(lambda name=name: stage_of(tmp_path / name) == "base model", f"the base model of {name}")
        here = cluster.gcs if name == "one" else cluster.dashboard
        code, out, err = cluster.bonfire("status", name, "--address", here, cwd=project)
        assert code == 0, err
        assert out.startswith(f"{name}   no controller at the moment: job {name} is RUNNING for 0:")
        assert 2 <= len(out.splitlines()) <= 4
        assert "job RUNNING" in cluster.bonfire("status", "--all", "--address", here, cwd=project)[1]
        code, out, err = cluster.bonfire("stop", name, "--address", here, cwd=project)
        assert (code, out.splitlines()[-1]) == (0, f"job {name} STOPPED"), err
        assert not (tmp_path / name).exists()
    assert "drives a run named 'x': " in (
        err := cluster.bonfire("logs", "x", "--address", here, cwd=project)[2]
    )
    assert ray_jobs.COMMAND_PREFIX not in err


@pytest.mark.slow
def test_a_job_that_fails_says_why_and_the_exit_code_is_1(cluster, project, tmp_path):
    overrides = ("model=/nowhere/at/all", "--name", "fails")
    code, out, err = cluster.bonfire(
        "submit", "tiny.toml", *overrides, "--address", cluster.dashboard, "--runs", tmp_path, cwd=project
    )
    assert code == 1
    assert "job fails FAILED: model = '/nowhere/at/all' is not a directory" in one_line(err)
    assert "Running entrypoint for job fails" in out
    token = Path(cluster.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    assert token not in out + err
    logged = cluster.bonfire("logs", "fails", "--address", cluster.dashboard, cwd=project)
    assert "model = '/nowhere/at/all' is not a directory" in logged[1]
    assert not (tmp_path / "fails").exists()


@pytest.mark.slow
def test_a_dashboard_alone_is_enough_to_ask(cluster, project):
    code, out, err = cluster.bonfire("status", "--all", "--address", cluster.dashboard, cwd=project)
    assert (code, out.strip()) == (0, "no run on this cluster is alive"), err


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
    return value


def stage_of(run_dir: Path) -> str:
    return read_run_file(run_dir).get("stage", "") if (run_dir / RUN_FILE).is_file() else ""


def steps_of(run_dir: Path) -> int:
    metrics = run_dir / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.is_file() else 0


def newest_checkpoint(run_dir: Path) -> str:
    return max(path.name for path in (run_dir / "checkpoints").iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_base_model_is_made_ends_at_once_and_leaves_nothing(cluster, tmp_path, number):
    config = ROOT / "examples" / "countdown.toml"
    process = cluster.start("train", config, "metrics.port=0", "run_dir=run", "model=base", cwd=tmp_path)
    wait_for(lambda: stage_of(tmp_path / "run") == "base model", "the base model's stage")
    code, out, err = cluster.bonfire("status", "run", cwd=tmp_path)
    assert code == 0 and out.startswith("run   base model, for "), err
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "interrupted before the training began; start again with the same command" in one_line(err)
    assert not (tmp_path / "run").exists() and not (tmp_path / "base").exists()


def test_a_signal_while_ray_starts_is_an_orderly_end(cluster, project):
    process = cluster.start("train", "tiny.toml", "run_dir=run", cwd=project)
    wait_for(lambda: stage_of(project / "run") == "starting", "the start of Ray")
    children = wait_for(lambda: psutil.Process(process.pid).children(recursive=True), "Ray's first process")
    process.terminate()
    _, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, "interrupted while Ray started" in one_line(err)) == (130, True)
    assert not psutil.wait_procs(children, timeout=20)[1]


@pytest.mark.slow
def test_a_signal_before_the_first_step_still_leaves_a_checkpoint(cluster, project):
    process = cluster.start("train", "tiny.toml", "run_dir=run", cwd=project)
    wait_for(lambda: stage_of(project / "run") == "training", "the training")
    process.terminate()
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "go on with: bonfire train --resume run" in one_line(err)
    assert newest_checkpoint(project / "run") == f"step-{steps_of(project / 'run'):06d}"


@pytest.mark.slow
def test_a_local_run_that_is_asked_to_stop_writes_a_checkpoint_and_exits_with_0(cluster, project):
    process = cluster.start("train", "tiny.toml", "run_dir=runs/a", cwd=project)
    wait_for(lambda: steps_of(project / "runs/a") > 2, "steps")
    assert "training" in cluster.bonfire("status", cwd=project)[1]
    code, out, err = cluster.bonfire("stop", cwd=project)
    assert code == 0, err
    assert f"checkpoint  runs/a/checkpoints/step-{steps_of(project / 'runs/a'):06d}" in out.replace(
        f"{project}/", ""
    )
    assert "bonfire train --resume runs/a" in out
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (0, "") and "stopped as asked, with a checkpoint" in out
    assert "has ended" in one_line(cluster.bonfire("status", "a", cwd=project)[2])


@pytest.fixture(scope="module")
def two_runs(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path):
    """Two jobs that train at once, and their project."""
    directory = tmp_path_factory.mktemp("two")
    project = make_project(directory / "project", tiny_model)
    for name in ("first", "second"):
        options = ("--address", cluster.dashboard, "--runs", directory, "--name", name, "--no-follow")
        code, out, err = cluster.bonfire("submit", "tiny.toml", *options, cwd=project)
        assert code == 0 and f"submitted job {name}" in out, err
    for name in ("first", "second"):
        wait_for(lambda name=name: steps_of(directory / name) > 1, f"steps of {name}")
    yield directory, project
    for name in ("first", "second"):  # a test that failed has not
        cluster.bonfire("stop", name, "--now", "--address", cluster.dashboard, cwd=project)


def state_of(cluster: Cluster, job: str, cwd: Path) -> str:
    """As Ray's own command sees it."""
    ray = ["ray", "job", "status", job, "--address", cluster.dashboard]
    shown = subprocess.run(
        ray, env=cluster.environment, cwd=cwd, capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )
    return next(
        state for state in ("SUCCEEDED", "STOPPED", "FAILED", "RUNNING") if state in shown.stdout.upper()
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_jobs_are_found_by_name_and_each_way_of_stopping_leaves_a_checkpoint(cluster, two_runs):
    directory, project = two_runs
    here = ("--address", cluster.gcs)
    _, _, err = cluster.bonfire("status", *here, cwd=project)
    assert f"2 runs on {cluster.gcs} are alive: first, second; name one" in one_line(err)
    facts = json.loads(cluster.bonfire("status", "second", "--json", *here, cwd=project)[1])
    assert facts["run_dir"] == str(directory / "second") and facts["stage"] == "training"
    assert [line.split()[0] for line in cluster.bonfire("status", "--all", *here, cwd=project)[1].splitlines()] == [
        "run", "first", "second",
    ]  # fmt: skip

    taken = cluster.bonfire(
        "submit", "tiny.toml", "--address", cluster.dashboard, f"run_dir={directory}/x/second", cwd=project
    )
    assert taken[0] == 1 and "job 'second' exists on" in one_line(taken[2])

    following = cluster.start("logs", "first", "--follow", "--address", cluster.dashboard, cwd=project)
    code, out, err = cluster.bonfire("stop", "first", "--address", cluster.dashboard, cwd=project)
    assert code == 0, err
    assert f"checkpoint  {directory}/first/checkpoints/step-{steps_of(directory / 'first'):06d}" in out
    assert "stopped as asked" in following.communicate(timeout=PATIENCE_S)[0]
    wait_for(lambda: state_of(cluster, "first", project) == "SUCCEEDED", "the state of first")

    code, out, err = cluster.bonfire("stop", "second", "--now", "--address", cluster.dashboard, cwd=project)
    assert (code, out.strip()) == (0, "job second STOPPED"), err
    assert newest_checkpoint(directory / "second") == f"step-{steps_of(directory / 'second'):06d}"

    done = steps_of(directory / "first")
    code, out, err = cluster.bonfire(
        "submit", "--resume", directory / "first", f"train.steps={done + 1}",
        "--address", cluster.dashboard, cwd=project,
    )  # fmt: skip
    assert code == 0 and "SUCCEEDED" in out, err
    assert steps_of(directory / "first") == done + 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_that_another_host_drives_is_not_begun_twice_and_goes_on_when_that_one_is_dead(
    cluster, project
):
    here = ("--address", cluster.gcs)
    again = ("train", "tiny.toml", "train.steps=3", "run_dir=run", "--resume", "auto", *here)
    no_checkpoint = "train.checkpoint_every=100000"
    process = cluster.start("train", "tiny.toml", "run_dir=run", no_checkpoint, *here, cwd=project)
    wait_for(lambda: steps_of(project / "run"), "a step")
    run_file = project / "run" / RUN_FILE
    run_file.write_text(json.dumps({**json.loads(run_file.read_text()), "host": "elsewhere"}))
    code, _, err = cluster.bonfire(*again, cwd=project)
    assert code == 1
    assert f"the run in run still trains on {cluster.gcs}, driven from host elsewhere" in one_line(err)
    process.kill()
    process.communicate(timeout=PATIENCE_S)
    wait_for(
        lambda: "no run on" in cluster.bonfire("status", "--all", *here, cwd=project)[1],
        "the controller's end",
    )
    code, out, err = cluster.bonfire(*again, cwd=project)
    assert code == 0 and "finished at step 3/3" in out, err
    assert "taken for dead" not in out


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ctrl_c_ends_the_following_and_not_the_job(cluster, project, tmp_path):
    following = cluster.start(
        "submit",
        "tiny.toml",
        "--address",
        cluster.dashboard,
        "--runs",
        tmp_path,
        "--name",
        "goes-on",
        cwd=project,
    )
    wait_for(lambda: steps_of(tmp_path / "goes-on"), "a step")
    following.send_signal(signal.SIGINT)
    _, err = following.communicate(timeout=PATIENCE_S)
    assert following.returncode == 130
    line = one_line(err)
    for command in ("logs goes-on --follow", "status goes-on", "stop goes-on"):
        assert f"bonfire {command} --address {cluster.dashboard}" in line
    assert state_of(cluster, "goes-on", project) == "RUNNING"
    assert cluster.bonfire("stop", "goes-on", "--address", cluster.gcs, cwd=project)[0] == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_rays_own_job_submit_and_stop_do_as_well(cluster, project, tmp_path):
    ray = ("ray", "job")
    entrypoint = ("bonfire", "train", "tiny.toml", f"run_dir={tmp_path}/plain", "--address", "auto")
    environment = '{"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "300"}}'
    submitting = subprocess.Popen(
        [
            *ray, "submit", "--address", cluster.dashboard, "--working-dir", ".", "--submission-id", "plain",
            "--runtime-env-json", environment, "--", *entrypoint,
        ],
        cwd=project, env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    wait_for(lambda: steps_of(tmp_path / "plain"), "a step")
    subprocess.run(
        [*ray, "stop", "plain", "--address", cluster.dashboard],
        cwd=project, env=cluster.environment, check=True, timeout=PATIENCE_S, capture_output=True,
    )  # fmt: skip
    submitting.communicate(timeout=PATIENCE_S)
    assert state_of(cluster, "plain", project) == "STOPPED"
    assert newest_checkpoint(tmp_path / "plain") == f"step-{steps_of(tmp_path / 'plain'):06d}"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_scale_prints_the_targets_before_and_after(cluster, project):
    process = cluster.start("train", "tiny.toml", "run_dir=runs/a", cwd=project)
    try:
        wait_for(lambda: steps_of(project / "runs/a"), "a step")
        code, out, _ = cluster.bonfire("scale", "--verifier", "2", cwd=project)
        assert (code, out.splitlines()[0]) == (0, "runs/a: verifier workers 1 -> 2")
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_S)


def test_scale_needs_a_number(cluster, tmp_path):
    assert "nothing to scale: give --rollout or --verifier" in one_line(
        cluster.bonfire("scale", cwd=tmp_path)[2]
    )
    assert "--rollout 0 is no number of workers" in one_line(
        cluster.bonfire("scale", "--rollout", "0", cwd=tmp_path)[2]
    )

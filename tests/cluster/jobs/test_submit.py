"""What is submitted, and what is refused before it is."""

from __future__ import annotations

import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.jobs import ray_jobs, submit

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

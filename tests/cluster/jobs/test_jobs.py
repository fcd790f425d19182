"""Runs that another shell submits, finds, watches and ends, on a real cluster of this machine."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import tomli_w

from cluster.jobs import ray_jobs
from cluster.run_directory.record import RUN_FILE
from tests.shared import waiting
from tests.shared.left_behind import num_steps, stage
from tests.shared.paths import ROOT
from tests.shared.runs import one_line
from tests.shared.user_cluster import PATIENCE_S, Cluster, Shell, opened_shell, started_cluster

wait_for = partial(waiting.wait_for, timeout_s=PATIENCE_S)


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    with opened_shell() as shell:
        yield shell


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with started_cluster() as cluster:
        yield cluster


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


def test_a_dry_run_prints_entrypoint_and_runtime_env_and_asks_no_cluster(shell, project, tmp_path):
    options = ("--address", "http://127.0.0.1:1", "--runs", tmp_path, "--name", "first", "--dry-run")
    code, out, err = shell.bonfire("submit", "tiny.toml", *options, cwd=project)
    assert code == 0, err
    assert f"bonfire train tiny.toml run_dir={tmp_path}/first --address auto" in out
    assert '"RAY_JOB_STOP_WAIT_TIME_S": "300"' in out and "1 files" in out


@pytest.mark.cluster
@pytest.mark.slow
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
        wait_for(lambda name=name: stage(tmp_path / name) == "base model", f"the base model of {name}")
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


def newest_checkpoint(run_dir: Path) -> str:
    return max(path.name for path in (run_dir / "checkpoints").iterdir())


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT])
def test_a_signal_while_the_base_model_is_made_ends_at_once_and_leaves_nothing(shell, tmp_path, number):
    config = ROOT / "examples" / "countdown.toml"
    process = shell.start("train", config, "metrics.port=0", "run_dir=run", "model=base", cwd=tmp_path)
    wait_for(lambda: stage(tmp_path / "run") == "base model", "the base model's stage")
    code, out, err = shell.bonfire("status", "run", cwd=tmp_path)
    assert code == 0 and out.startswith("run   base model, for "), err
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "interrupted before the training began; start again with the same command" in one_line(err)
    assert not (tmp_path / "run").exists() and not (tmp_path / "base").exists()


@pytest.mark.cluster
@pytest.mark.slow
def test_a_signal_while_ray_starts_is_an_orderly_end(shell, project):
    process = shell.start("train", "tiny.toml", "run_dir=run", cwd=project)
    wait_for(lambda: stage(project / "run") == "starting", "the start of Ray")
    children = wait_for(lambda: psutil.Process(process.pid).children(recursive=True), "Ray's first process")
    process.terminate()
    _, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, "interrupted while Ray started" in one_line(err)) == (130, True)
    assert not psutil.wait_procs(children, timeout=20)[1]


@pytest.mark.slow
def test_a_signal_before_the_first_step_still_leaves_a_checkpoint(shell, project):
    process = shell.start("train", "tiny.toml", "run_dir=run", cwd=project)
    wait_for(lambda: stage(project / "run") == "training", "the training")
    process.terminate()
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "go on with: bonfire train --resume run" in one_line(err)
    assert newest_checkpoint(project / "run") == f"step-{num_steps(project / 'run'):06d}"


@pytest.mark.slow
def test_a_local_run_that_is_asked_to_stop_writes_a_checkpoint_and_exits_with_0(shell, project):
    process = shell.start("train", "tiny.toml", "run_dir=runs/a", cwd=project)
    wait_for(lambda: num_steps(project / "runs/a") > 2, "steps")
    assert "training" in shell.bonfire("status", cwd=project)[1]
    code, out, err = shell.bonfire("stop", cwd=project)
    assert code == 0, err
    assert f"checkpoint  runs/a/checkpoints/step-{num_steps(project / 'runs/a'):06d}" in out.replace(
        f"{project}/", ""
    )
    assert "bonfire train --resume runs/a" in out
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (0, "") and "stopped as asked, with a checkpoint" in out
    assert "has ended" in one_line(shell.bonfire("status", "a", cwd=project)[2])


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
        wait_for(lambda name=name: num_steps(directory / name) > 1, f"steps of {name}")
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
    assert f"checkpoint  {directory}/first/checkpoints/step-{num_steps(directory / 'first'):06d}" in out
    assert "stopped as asked" in following.communicate(timeout=PATIENCE_S)[0]
    wait_for(lambda: state_of(cluster, "first", project) == "SUCCEEDED", "the state of first")

    code, out, err = cluster.bonfire("stop", "second", "--now", "--address", cluster.dashboard, cwd=project)
    assert (code, out.strip()) == (0, "job second STOPPED"), err
    assert newest_checkpoint(directory / "second") == f"step-{num_steps(directory / 'second'):06d}"

    done = num_steps(directory / "first")
    code, out, err = cluster.bonfire(
        "submit", "--resume", directory / "first", f"train.steps={done + 1}",
        "--address", cluster.dashboard, cwd=project,
    )  # fmt: skip
    assert code == 0 and "SUCCEEDED" in out, err
    assert num_steps(directory / "first") == done + 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_that_another_host_drives_is_not_begun_twice_and_goes_on_when_that_one_is_dead(
    cluster, project
):
    here = ("--address", cluster.gcs)
    again = ("train", "tiny.toml", "train.steps=3", "run_dir=run", "--resume", "auto", *here)
    no_checkpoint = "train.checkpoint_every=100000"
    process = cluster.start("train", "tiny.toml", "run_dir=run", no_checkpoint, *here, cwd=project)
    wait_for(lambda: num_steps(project / "run"), "a step")
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
    wait_for(lambda: num_steps(tmp_path / "goes-on"), "a step")
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
    wait_for(lambda: num_steps(tmp_path / "plain"), "a step")
    subprocess.run(
        [*ray, "stop", "plain", "--address", cluster.dashboard],
        cwd=project, env=cluster.environment, check=True, timeout=PATIENCE_S, capture_output=True,
    )  # fmt: skip
    submitting.communicate(timeout=PATIENCE_S)
    assert state_of(cluster, "plain", project) == "STOPPED"
    assert newest_checkpoint(tmp_path / "plain") == f"step-{num_steps(tmp_path / 'plain'):06d}"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_scale_prints_the_targets_before_and_after(shell, project):
    process = shell.start("train", "tiny.toml", "run_dir=runs/a", cwd=project)
    try:
        wait_for(lambda: num_steps(project / "runs/a"), "a step")
        code, out, _ = shell.bonfire("scale", "--verifier", "2", cwd=project)
        assert (code, out.splitlines()[0]) == (0, "runs/a: verifier workers 1 -> 2")
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_S)


def test_scale_needs_a_number(shell, tmp_path):
    assert "nothing to scale: give --rollout or --verifier" in one_line(
        shell.bonfire("scale", cwd=tmp_path)[2]
    )
    assert "--rollout 0 is no number of workers" in one_line(
        shell.bonfire("scale", "--rollout", "0", cwd=tmp_path)[2]
    )

"""`bonfire train` whose controller, learner or disk fails: it goes on by itself, or ends with one line."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.shared import runs
from tests.shared.full_disk import on_small_disk
from tests.shared.left_behind import checkpoint_at, num_steps, stage
from tests.shared.runs import (
    STEPS,
    actor_process,
    check_exactly_once,
    finished,
    kill_tree,
    one_line,
    started,
    wait_for,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def test_a_killed_controller_is_followed_by_another(tmp_path, tiny_model):
    project = runs.make_project(tmp_path / "project", tiny_model)
    with started(project, "train", "tiny.toml") as process:
        wait_for(lambda: num_steps(project / "run") >= 4, process)
        actor_process(process, "Controller").kill()
        out, err = process.communicate(timeout=runs.PATIENCE_S)
    assert process.returncode == 0, err
    [line] = [line for line in out.splitlines() if "] ! " in line]
    assert "! the controller died: ActorDiedError; recovery 1: goes on from checkpoint step-0000" in line
    assert "recoveries: 1" in out
    check_exactly_once(project / "run")


def test_a_learner_that_hangs_is_killed_and_the_run_goes_on(tmp_path, tiny_model):
    project = runs.make_project(tmp_path / "project", tiny_model, train={"step_timeout_s": 20.0})
    with started(project, "train", "tiny.toml") as process:
        wait_for(lambda: num_steps(project / "run") >= 4, process)
        hung = actor_process(process, "LearnerWorker")
        hung.send_signal(signal.SIGSTOP)
        out, err = process.communicate(timeout=runs.PATIENCE_S)
    assert process.returncode == 0, err
    assert "learner did not answer within 20 s while" in out and not hung.is_running()
    check_exactly_once(project / "run")


def test_a_run_that_is_lost_once_too_often_ends_with_the_command_that_goes_on(tmp_path, tiny_model):
    project = runs.make_project(tmp_path / "project", tiny_model)
    with started(project, "train", "tiny.toml", "train.max_recoveries=0") as process:
        wait_for(lambda: num_steps(project / "run") >= 4, process)
        actor_process(process, "LearnerWorker").kill()
        _, err = process.communicate(timeout=runs.PATIENCE_S)
    assert process.returncode == 1
    line = one_line(err)
    assert line.startswith("bonfire: learner was lost while ") and line.endswith(
        "; train.max_recoveries = 0; go on with: bonfire train --resume run"
    )


def test_a_damaged_checkpoint_is_told_on_the_screen_and_in_the_log_and_the_one_before_used(
    tmp_path, tiny_model
):
    project = runs.make_project(tmp_path / "project", tiny_model)
    code, _, err = finished(project, "train", "tiny.toml", "train.steps=6")
    assert code == 0, err
    damaged = checkpoint_at(project / "run", 6)
    file = damaged / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-100] + bytes(100))
    code, out, err = finished(project, "train", "--resume", "run", f"train.steps={STEPS}")
    assert code == 0, err
    told = "is damaged (optimizer.safetensors has other contents than were written): it is kept as step-000006.damaged"
    assert told in out and told in (project / "run" / "controller.log").read_text()
    assert damaged.with_name("step-000006.damaged").is_dir()
    check_exactly_once(project / "run")


FILL_THE_DISK = """
"$@" & run=$!
until [ "$(cat run/metrics.jsonl 2>/dev/null | wc -l)" -ge 4 ]; do kill -0 $run || exit 9; sleep 0.05; done
cat /dev/zero > run/filling 2>/dev/null
wait $run; code=$?
rm run/filling
cp -r run after  # the file system goes with its namespace
exit $code
"""


def test_a_run_whose_disk_gets_full_ends_with_one_line_and_goes_on_when_there_is_room(tmp_path, tiny_model):
    project = runs.make_project(tmp_path / "project", tiny_model)
    run_dir = project / "run"
    run_dir.mkdir()
    code, out, err = finished(
        project, "train", "tiny.toml", wrap=on_small_disk(run_dir, "100m", f"{{ {FILL_THE_DISK} }}")
    )
    assert code == 1, out
    line = one_line(err)
    assert " cannot be written (" in line and "o space left on device" in line
    assert str(run_dir) in line and " bytes are free on that disk" in line
    run_dir.rmdir()
    (project / "after").rename(run_dir)
    assert not list(run_dir.rglob("*.partial"))
    code, out, err = finished(project, "train", "tiny.toml", "--resume", "auto")
    assert code == 0, err
    assert "resuming from run/checkpoints/step-" in out
    check_exactly_once(run_dir)


def test_a_run_killed_while_it_makes_its_base_model_is_begun_by_the_same_command(tmp_path):
    sft = {"num_demonstrations": 2000, "steps": 40, "hidden_size": 64, "num_heads": 2, "num_layers": 1}
    project = runs.make_project(
        tmp_path / "project",
        Path("base"),
        problems={"num_train": runs.NUM_PROBLEMS},
        verifier={"reward": "countdown"},
        train={"steps": 2},
        sft=sft,
    )
    command = ("train", "tiny.toml", "--resume", "auto")
    with started(project, *command) as process:
        wait_for(lambda: stage(project / "run") == "base model", process)
        kill_tree(process)
    assert not (project / "base").exists()
    code, _, err = finished(project, *command)
    assert code == 0, err
    check_exactly_once(project / "run", 2)
    assert json.loads((project / "run" / "run.json").read_text())["stage"] == "ended"

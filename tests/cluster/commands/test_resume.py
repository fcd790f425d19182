"""A checkpoint is resumed only by the run it belongs to."""

import json
import os
import socket
import subprocess
import sys
import threading

import pytest
import tomli_w

from cluster.commands.resume import check_not_running, find_or_begin
from cluster.config.parse import parse_config
from cluster.run.preflight import check_port
from cluster.run.same_run import check_same_run, identity
from cluster.run_directory.record import RUN_FILE, SETTINGS_FILE, STATE_FILE, RunRecord
from verifiers.types import Problem

PROBLEMS = [Problem(id="a", prompt="1 + 1", truth={"answer": 2}), Problem(id="b", prompt="2 + 2")]


def config(**sections):
    return parse_config({"model": "m", **sections})


@pytest.fixture
def checkpoint(tmp_path):
    state = {"version": 5, "identity": identity(config(), PROBLEMS)}
    (tmp_path / STATE_FILE).write_text(json.dumps(state))
    return tmp_path


def test_the_same_run_may_go_on_with_more_steps_and_other_resources(checkpoint):
    longer = config(
        train={"steps": 700}, rollout={"workers": 3}, learner={"micro_batch_tokens": 64, "ranks": 2}
    )
    check_same_run(checkpoint, longer, PROBLEMS)


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"train": {"seed": 3}}, "train.seed is 3"),
        ({"train": {"groups_per_step": 16}}, "train.groups_per_step is 16"),
        ({"train": {"steps": 4}}, "train.steps = 4"),
        ({"learner": {"learning_rate": 1e-3}}, "learner.learning_rate is 0.001"),
        ({"objective": {"num_select": 8}}, "objective.num_select is 8"),
        ({"rollout": {"temperature": 0.7}}, "rollout.temperature is 0.7"),
    ],
)
def test_another_setting_is_refused_by_name(checkpoint, sections, named):
    with pytest.raises(ValueError, match=named) as refusal:
        check_same_run(checkpoint, config(**sections), PROBLEMS)
    assert "\n" not in str(refusal.value)


def test_a_setting_that_is_gone_is_refused_by_name(tmp_path):
    ranked = config(objective={"score_transform": "rank_vs_base", "base_samples": 8})
    state = {"version": 5, "identity": identity(ranked, PROBLEMS)}
    (tmp_path / STATE_FILE).write_text(json.dumps(state))
    check_same_run(tmp_path, ranked, PROBLEMS)
    with pytest.raises(
        ValueError, match=r"objective\.score_transform is not set, .* made with 'rank_vs_base'"
    ):
        check_same_run(tmp_path, config(), PROBLEMS)


def adapted(**lora):
    return config(learner={"lora": {"rank": 8, **lora}})


@pytest.mark.parametrize(
    ("now", "named"),
    [
        (
            adapted(rank=4),
            r"^learner\.lora\.rank is 4, checkpoint .* was made with 8: resume with that, or start",
        ),
        (
            adapted(target=["q_proj"]),
            r"^learner\.lora\.target is \['q_proj'\], .* was made with \['all-linear'\]",
        ),
        (
            adapted(publish="adapter"),
            r"^learner\.lora\.publish is 'adapter', .* made with 'merged': resume with that",
        ),
        (
            config(),
            r"^learner\.lora is not set, checkpoint .* was made with adapters: resume with that, or",
        ),
    ],
    ids=["rank", "target", "publish", "without"],
)
def test_of_other_adapters_the_setting_that_differs_is_named(tmp_path, now, named):
    state = {"version": 5, "identity": json.loads(json.dumps(identity(adapted(), PROBLEMS)))}
    (tmp_path / STATE_FILE).write_text(json.dumps(state))
    (tmp_path / "model").mkdir()
    (tmp_path / "model/adapter_config.json").write_text("{}")
    check_same_run(tmp_path, adapted(), PROBLEMS)
    with pytest.raises(ValueError, match=named) as refusal:
        check_same_run(tmp_path, now, PROBLEMS)
    assert f"`bonfire export {tmp_path} --merged DIR`" in str(refusal.value)
    assert "{" not in str(refusal.value) and "\n" not in str(refusal.value)


def test_adapters_that_are_new_are_named_and_not_the_model_that_counts_with_them(checkpoint):
    with pytest.raises(
        ValueError, match=r"^learner\.lora is set, .* was made without adapters: resume without them, or"
    ):
        check_same_run(checkpoint, adapted(), PROBLEMS)


def test_a_checkpoint_from_before_a_setting_existed_says_so(checkpoint):
    file = checkpoint / STATE_FILE
    state = json.loads(file.read_text())
    del state["identity"]["learner.importance"]
    file.write_text(json.dumps(state))
    with pytest.raises(ValueError) as refusal:
        check_same_run(checkpoint, config(), PROBLEMS)
    assert str(refusal.value) == (
        f"learner.importance is 'token', checkpoint {checkpoint} was made without that setting: "
        f"start a new run with model = '{checkpoint / 'model'}'"
    )


def test_another_model_is_refused_where_the_run_is_anchored_to_it(tmp_path):
    anchored = config(learner={"kl_coefficient": 0.1})
    state = {"version": 5, "identity": identity(anchored, PROBLEMS)}
    (tmp_path / STATE_FILE).write_text(json.dumps(state))
    check_same_run(tmp_path, anchored, PROBLEMS)
    with pytest.raises(ValueError, match="^model is 'other'"):
        check_same_run(tmp_path, anchored.model_copy(update={"model": "other"}), PROBLEMS)


@pytest.mark.parametrize(
    "problems",
    [PROBLEMS[:1], PROBLEMS[::-1], [Problem(id="a", prompt="1 + 1", truth={"answer": 3}), PROBLEMS[1]]],
    ids=["fewer", "reordered", "another truth"],
)
def test_other_problems_are_refused(checkpoint, problems):
    with pytest.raises(ValueError, match="^problems is"):
        check_same_run(checkpoint, config(), problems)


def test_a_run_whose_process_lives_is_not_resumed(tmp_path):
    (tmp_path / RUN_FILE).write_text(json.dumps({"local": True, "pid": os.getpid()}))
    with pytest.raises(ValueError, match="still running"):
        check_not_running(tmp_path, None)


def test_a_run_whose_process_is_gone_may_be_resumed(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    (tmp_path / RUN_FILE).write_text(json.dumps({"local": True, "pid": int(ended.stdout)}))
    assert check_not_running(tmp_path, None) is None


def test_of_a_run_that_another_host_drove_it_is_said_that_nobody_can_know(tmp_path):
    about = {"local": True, "pid": os.getpid(), "host": "elsewhere", "stage": "training", "name": "run"}
    (tmp_path / RUN_FILE).write_text(json.dumps(about))
    assert check_not_running(tmp_path, None) == (
        f"{tmp_path / RUN_FILE} was left by a process of host elsewhere, at stage 'training': taken for dead"
    )
    (tmp_path / RUN_FILE).write_text(json.dumps(about | {"stage": "ended"}))
    assert check_not_running(tmp_path, None) is None


def test_a_damaged_run_file_is_named_with_the_remedy(tmp_path):
    (tmp_path / RUN_FILE).write_text("")
    with pytest.raises(
        ValueError, match=r"run\.json is damaged \(.*\): if no process drives that run, delete"
    ):
        check_not_running(tmp_path, None)


# --resume auto


def begun(run_dir, **sections):
    """A run as one leaves it that dies before its first checkpoint."""
    RunRecord(run_dir)
    settings = {"model": "m", "run_dir": str(run_dir), **sections}
    (run_dir / SETTINGS_FILE).write_text(tomli_w.dumps(settings))
    return parse_config(settings)


def test_auto_begins_where_there_is_no_run(tmp_path):
    run_dir = tmp_path / "run"
    assert find_or_begin(config(run_dir=str(run_dir)))[1:] == (run_dir, False)
    run_dir.mkdir()  # and where one died while it made its base model
    (run_dir / RUN_FILE).write_text(json.dumps({"stage": "base model"}))
    assert find_or_begin(config(run_dir=str(run_dir)))[1:] == (run_dir, False)


def test_auto_goes_on_where_there_is_one_with_or_without_a_checkpoint(tmp_path):
    settings = begun(tmp_path)
    assert find_or_begin(settings) == (settings, tmp_path, True)
    longer = settings.model_copy(update={"train": settings.train.model_copy(update={"steps": 700})})
    assert find_or_begin(longer) == (longer, tmp_path, True)
    (tmp_path / SETTINGS_FILE).unlink()
    (tmp_path / "checkpoints" / "step-000005").mkdir()
    assert find_or_begin(settings) == (settings, tmp_path, True)


@pytest.mark.parametrize("has_checkpoint", [False, True])
def test_auto_keeps_the_steps_of_a_decay_that_a_run_began_with(tmp_path, has_checkpoint):
    decay = {"schedule": "cosine"}
    begun(tmp_path, learner=decay | {"schedule_steps": 100}, train={"steps": 100})
    if has_checkpoint:
        (tmp_path / "checkpoints" / "step-000005").mkdir()
    extended, _, goes_on = find_or_begin(config(run_dir=str(tmp_path), learner=decay, train={"steps": 700}))
    assert goes_on and (extended.train.steps, extended.learner.schedule_steps) == (700, 100)
    given = config(run_dir=str(tmp_path), learner=decay | {"schedule_steps": 300})
    if has_checkpoint:  # which is compared by check_same_run
        assert find_or_begin(given)[0] == given
    else:
        with pytest.raises(ValueError, match=r"learner\.schedule_steps is 300, .* was begun with 100"):
            find_or_begin(given)


def test_auto_refuses_a_directory_that_is_another_runs(tmp_path):
    begun(tmp_path, train={"seed": 1})
    with pytest.raises(ValueError) as refusal:
        find_or_begin(config(run_dir=str(tmp_path), train={"seed": 2}))
    assert str(refusal.value) == (
        f"train.seed is 2, the run in {tmp_path} was begun with 1: go on with that, or choose another run_dir"
    )


def test_auto_needs_a_directory_that_is_the_same_each_time():
    with pytest.raises(ValueError, match=r"^--resume auto needs run_dir=DIR, each time the same"):
        find_or_begin(config())


def test_a_model_that_is_a_directory_is_the_same_by_its_relative_and_its_absolute_path(tmp_path, monkeypatch):
    (tmp_path / "m").mkdir()
    monkeypatch.chdir(tmp_path)
    anchored = config(learner={"kl_coefficient": 0.1})
    moved = anchored.model_copy(update={"model": str(tmp_path / "m")})
    assert identity(anchored, PROBLEMS) == identity(moved, PROBLEMS)


def test_a_resumed_run_waits_for_the_port_of_the_one_before():
    listener = socket.create_server(("127.0.0.1", 0))
    metrics = config(metrics={"port": listener.getsockname()[1]}).metrics
    with pytest.raises(ValueError, match=r"metrics\.port"):
        check_port(metrics)
    threading.Timer(0.5, listener.close).start()
    check_port(metrics, patience_s=60.0)

"""A checkpoint is resumed only by the run it belongs to."""

import json
import os
import subprocess
import sys

import pytest

from cluster.config import parse_config
from cluster.record import RUN_FILE, STATE_FILE
from cluster.resume import check_not_running, check_same_run, identity
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
        check_not_running(tmp_path)


def test_a_run_whose_process_is_gone_may_be_resumed(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    (tmp_path / RUN_FILE).write_text(json.dumps({"local": True, "pid": int(ended.stdout)}))
    check_not_running(tmp_path)

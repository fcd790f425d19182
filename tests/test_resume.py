"""A checkpoint is resumed only by the run it belongs to."""

import json

import pytest

from cluster.config import parse_config
from cluster.record import STATE_FILE
from cluster.resume import check_same_run, identity
from verifiers.types import Problem

PROBLEMS = [Problem(id="a", prompt="a"), Problem(id="b", prompt="b")]


def config(**train):
    return parse_config({"model": "m", "train": train})


@pytest.fixture
def checkpoint(tmp_path):
    (tmp_path / STATE_FILE).write_text(json.dumps({"identity": identity(config(), PROBLEMS)}))
    return tmp_path


def test_the_same_run_with_more_steps_may_go_on(checkpoint):
    check_same_run(checkpoint, identity(config(steps=7), PROBLEMS))


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (identity(config(seed=3), PROBLEMS), "train.seed is 3"),
        (identity(config(groups_per_step=16), PROBLEMS), "train.groups_per_step is 16"),
        (identity(config(), PROBLEMS[:1]), "problems is '1 problems"),
        (identity(config(), PROBLEMS[::-1]), "problems is '2 problems"),
    ],
)
def test_another_run_is_refused_by_name(checkpoint, other, named):
    with pytest.raises(ValueError, match=named) as refusal:
        check_same_run(checkpoint, other)
    assert "\n" not in str(refusal.value)

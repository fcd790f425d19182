"""The learning rate of every step."""

from __future__ import annotations

import math
from typing import get_args

import pytest

from learner.config import LearnerConfig, Schedule
from learner.learner import Learner
from learner.objectives.config import ObjectiveConfig
from learner.schedule import DECAYS, learning_rate_at
from tests.shared.learners import make_learner
from tests.shared.refusals import refusal
from tests.shared.tiny_model import make_group, model_path


def rates(schedule, steps, *, peak=1.0, warmup_steps=0, floor=0.1, count=None):
    return [
        learning_rate_at(
            step, schedule=schedule, peak=peak, warmup_steps=warmup_steps, steps=steps, floor=floor
        )
        for step in range(count or steps + 1)
    ]


def test_every_schedule_that_can_be_set_has_a_function():
    assert set(DECAYS) == set(get_args(Schedule))


def test_a_constant_rate_is_the_peak_after_its_warm_up_whatever_the_steps():
    expected = [2e-6 * share for share in (1 / 4, 2 / 4, 3 / 4, 1, 1, 1, 1, 1)]
    for steps in (None, 1, 3, 1000):
        assert rates("constant", steps, peak=2e-6, warmup_steps=4, floor=0.3, count=8) == expected


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [("linear", (1, 0.75, 0.5, 0.25, 0, 0)), ("cosine", (1, 0.8535533906, 0.5, 0.1464466094, 0, 0))],
)
def test_a_decay_goes_from_the_peak_to_its_floor_and_stays_there(schedule, shares):
    for floor in (0.0, 0.1, 1.0):
        expected = [3e-6 * (floor + (1 - floor) * share) for share in shares]
        assert rates(schedule, 4, peak=3e-6, floor=floor, count=6) == pytest.approx(expected)


def test_warm_up_and_decay_both_begin_at_the_first_step():
    assert rates("linear", 4, warmup_steps=2, floor=0.0) == pytest.approx([0.5, 0.75, 0.5, 0.25, 0])


def test_the_learner_follows_the_schedule_and_goes_on_with_it_when_resumed(tmp_path):
    settings = {"schedule": "cosine", "schedule_steps": 4, "schedule_floor": 0.2, "warmup_steps": 0}

    def expected(step):
        return 1e-4 * (0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * min(1, step / 4))))

    learner = make_learner(**settings)
    groups = [make_group(0), make_group(1)]
    for step in range(3):
        assert learner.train_step(groups).facts["learning_rate"] == pytest.approx(expected(step))
    learner.save(tmp_path)
    resumed = make_learner(**settings)
    resumed.load(tmp_path)
    for step in range(3, 7):  # beyond the end as well: a run that was extended
        assert resumed.train_step(groups).facts["learning_rate"] == pytest.approx(expected(step))
    message = refusal(lambda: make_learner(**{**settings, "schedule_steps": 8}).load(tmp_path))
    assert "learner.schedule_steps = 4, this run has 8: resume with the same value" in message


def test_a_decay_over_an_unknown_number_of_steps_is_refused():
    config = LearnerConfig(schedule="linear")
    message = refusal(lambda: Learner(model_path(), config, ObjectiveConfig(num_select=2), 1.0, seed=0))
    assert message == (
        "learner.schedule = 'linear' decays over a number of steps that is not given: set learner.schedule_steps"
    )

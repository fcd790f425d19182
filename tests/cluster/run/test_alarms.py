"""What makes a whole run stop: other weights, another distribution, a verifier that fails."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import ray

from cluster.config.schema import RunConfig
from cluster.fleet.broadcast import Published
from cluster.fleet.calls import Halt
from cluster.run.controller import Controller
from cluster.run_directory.record import UNJUDGED_FILE
from tests.shared.left_behind import checkpoint_at
from tests.shared.live_run import (
    GROUPS,
    scrape,
    trained_groups,
    trajectories,
)
from verifiers.problems.loading import load_problems

ControllerClass = Controller.__ray_metadata__.modified_class


class DeceivedAboutTemperature(ControllerClass):
    """Its learner believes that samples were drawn at another temperature than they were."""

    def __init__(self, config: RunConfig, *arguments: Any) -> None:
        super().__init__(config, *arguments)
        rollout = config.rollout.model_copy(update={"temperature": 0.7})
        self._learner._config = config.model_copy(update={"rollout": rollout})


class DamagesWeights(ControllerClass):
    """From version 3 on, one byte of the weights changes between learner and engines."""

    async def _sync(self, published: Published, stepped_at_s: float) -> None:
        if published.version >= 3:
            damaged = (await published.buckets[0]).copy()
            damaged[1000] ^= 1
            published = dataclasses.replace(published, buckets=[ray.put(damaged), *published.buckets[1:]])
        await super()._sync(published, stepped_at_s)


@pytest.mark.slow
def test_samples_from_another_distribution_stop_the_run(start, make_config, tmp_path):
    with (
        start(make_config(), tmp_path, controller=ray.remote(DeceivedAboutTemperature)) as run,
        pytest.raises(
            Halt,
            match=r"^rollout-0 samples from another distribution .* mean \|log-prob difference\| is 0\.\d+ nats",
        ),
    ):
        run.finish()
    assert trained_groups(tmp_path) == []


@pytest.mark.slow
def test_an_engine_with_other_weights_than_the_learner_stops_the_run(start, make_config, tmp_path):
    config = make_config(train={"max_staleness": 1, "steps": 1000})
    with (
        start(config, tmp_path, controller=ray.remote(DamagesWeights)) as run,
        pytest.raises(Halt, match=r"^rollout-0 serves other weights than the learner's version 3"),
    ):
        run.finish()


@pytest.mark.slow
def test_a_verifier_that_always_fails_stops_the_run_with_its_message(start, make_config, tmp_path):
    config = make_config(
        verifier={"reward": "loop_verifiers:broken"}, train={"max_consecutive_failures": 3, "steps": 1000}
    )
    with start(config, tmp_path) as run:
        message = r"3 failures in a row .*loop_verifiers:broken.*KeyError: 'no such column'"
        with pytest.raises(Halt, match=message):
            run.finish()
        with pytest.raises(ValueError, match="the run is ending: it takes no more workers"):
            run.scale(rollout=2)
    assert trained_groups(tmp_path) == []


@pytest.mark.slow
def test_a_verifier_that_cannot_start_stops_the_run_with_its_message(start, make_config, tmp_path):
    config = make_config(
        verifier={"reward": "no_such_module:judge"}, train={"max_consecutive_failures": 2, "steps": 1000}
    )
    with (
        start(config, tmp_path) as run,
        pytest.raises(Halt, match=r"no verifier worker starts: verifier-2 .*cannot import 'no_such_module'"),
    ):
        run.finish()


@pytest.mark.slow
def test_a_problem_on_which_the_verifier_fails_is_set_aside_and_the_run_goes_on_also_after_a_resume(
    start, make_config, tmp_path
):
    config = make_config(
        verifier={"reward": "loop_verifiers:picky"}, train={"steps": 8, "max_consecutive_failures": 2}
    )
    problems = load_problems(config.problems, "train")
    (bad,) = [problem.id for problem in problems if problem.truth["target"] == 90]
    with start(config, tmp_path) as run:
        facts = run.finish()
        shown = scrape(facts)
    assert facts["step"] == 8
    (entry,) = facts["unjudged_problems"]
    assert entry["problem_id"] == bad and "unreadable truth" in entry["error"]
    assert json.loads((tmp_path / UNJUDGED_FILE).read_text())["problem_id"] == bad
    assert shown["bonfire_verifier_unjudged_problems"] == 1
    assert any(f"problem {bad} is set aside" in event for event in facts["events"])
    asked = [row["problem_id"] for rows in trajectories(tmp_path).values() for row in rows]
    assert len(asked) == 8 * GROUPS and bad not in asked

    longer = config.model_copy(update={"train": config.train.model_copy(update={"steps": 10})})
    with start(longer, tmp_path, checkpoint=checkpoint_at(tmp_path, 8)) as run:
        again = run.finish()
    assert again["step"] == 10 and again["unjudged_problems"] == [entry]


@pytest.mark.slow
def test_a_run_that_learns_nothing_stops_with_a_checkpoint_where_it_is_told_to(start, make_config, tmp_path):
    config = make_config(
        verifier={"reward": "loop_verifiers:zero"},
        train={"steps": 1000, "stop_when_nothing_learned_for": 3, "checkpoint_every": 1000},
    )
    message = (
        r"^nothing was learned in the 3 steps up to 3: every sample had reward 0: the problems are too hard"
    )
    with start(config, tmp_path) as run, pytest.raises(Halt, match=message):
        run.finish()
    assert checkpoint_at(tmp_path, 3).is_dir()

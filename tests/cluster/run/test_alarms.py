"""What makes a whole run stop: other weights, another distribution, a verifier that fails."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import ray

from cluster.config.schema import RunConfig
from cluster.fleet.broadcast import Published
from cluster.fleet.calls import Halt
from cluster.fleet.learning import LearnerHandle
from cluster.run.controller import Controller
from tests.shared.live_run import (
    trained_groups,
)

ControllerClass = Controller.__ray_metadata__.modified_class


class DeceivedAboutTemperature(ControllerClass):
    """Its learner believes that samples were drawn at another temperature than they were."""

    def __init__(self, config: RunConfig, *arguments: Any) -> None:
        super().__init__(config, *arguments)
        rollout = config.rollout.model_copy(update={"temperature": 0.7})
        self._learner = LearnerHandle(config.model_copy(update={"rollout": rollout}))


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
        pytest.raises(Halt, match=r"^rollout-0 samples from another distribution .* differ by [0-9.]+"),
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


def test_a_verifier_that_cannot_start_stops_the_run_with_its_message(start, make_config, tmp_path):
    config = make_config(
        verifier={"reward": "no_such_module:judge"}, train={"max_consecutive_failures": 2, "steps": 1000}
    )
    with (
        start(config, tmp_path) as run,
        pytest.raises(Halt, match=r"no verifier worker starts: verifier-2 .*cannot import 'no_such_module'"),
    ):
        run.finish()

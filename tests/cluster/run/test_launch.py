"""Starting a private Ray cluster on a machine that may be too busy for it, and how its actors' ends are told."""

import os
import time

import pytest
import ray

from cluster.fleet.calls import Halt
from cluster.fleet.nodes import living_actors
from cluster.fleet.ray_cluster import _start_private
from cluster.run.launch import _actor_processes, _get
from cluster.run.recovery import RunLost
from tests.shared.waiting import wait_for


def test_a_start_that_times_out_is_tried_again():
    calls = []

    def start():
        calls.append("start")
        if len(calls) == 1:
            raise Exception("The current node timed out during startup. This could happen because ...")  # noqa: TRY002  Ray does
        return "context"

    assert _start_private(start, lambda: calls.append("clean up")) == "context"
    assert calls == ["start", "clean up", "start"]


def test_a_second_failure_is_one_line_with_a_remedy():
    def start():
        raise Exception("The current node timed out during startup.\nsecond line")  # noqa: TRY002  Ray does

    with pytest.raises(RuntimeError) as error:
        _start_private(start, lambda: None)
    assert str(error.value) == (
        "Ray does not start on this machine, tried twice (The current node timed out during startup.): "
        "end other work and try again, or join a running cluster with --address"
    )


def test_an_interruption_is_no_failure():
    def start():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _start_private(start, lambda: None)


class LearnerLike:
    """Its process is named as our actors' are."""

    def fail(self, error):
        raise error

    def die(self):
        os._exit(1)

    def sleep(self):
        time.sleep(600)


@pytest.fixture
def actor(ray_cluster):
    actor = ray.remote(num_cpus=0)(LearnerLike).remote()
    yield actor
    ray.kill(actor)


def test_a_loss_is_told_from_a_verdict_by_its_type(actor):
    with pytest.raises(RunLost, match=r"^learner was lost$"):
        _get(actor.fail.remote(RunLost("learner was lost")))
    for error in (Halt("the verifier fails"), OSError("disk"), KeyError("bug")):
        with pytest.raises(RuntimeError, match=str(error)) as raised:
            _get(actor.fail.remote(error))
        assert not isinstance(raised.value, RunLost)


def test_an_actor_that_is_silent_or_dies_is_a_loss_and_gone_when_it_is_over(actor):
    with pytest.raises(RunLost, match=r"^the controller does not answer within 0.5 s$"):
        _get(actor.sleep.remote(), timeout_s=0.5)
    assert "LearnerLike" in living_actors()
    wait_for(lambda: any("LearnerLike" in name for name in _actor_processes()))
    ray.kill(actor)
    with pytest.raises(RunLost, match=r"^the controller died: ActorDiedError$"):
        _get(actor.die.remote())
    wait_for(lambda: "LearnerLike" not in living_actors())
    wait_for(lambda: not any("LearnerLike" in name for name in _actor_processes()))

"""A real engine that is wrong and says it is right, on purpose: the run is stopped, in float32 and in bfloat16.

How far weights must have moved to be told from rounding on a real model: benchmarks/parity.py.
"""

from __future__ import annotations

import os

import pytest

from cluster.fleet.calls import Halt
from tests.shared.parity_faults import FAULTS, Pair, engine_of

NUM_STEPS = 4
"""Of learning rate 2e-4: how far the policy has moved from the weights that a wrong engine still has."""


pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module", params=[pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
def pair(request, tiny_model):
    """With an engine of its own: where one is shut down no other of its process goes on, so this file has a process."""
    environment = dict(os.environ)
    engine = engine_of(str(tiny_model), request.param)
    os.environ.clear()
    os.environ.update(environment)  # vLLM sets LD_PRELOAD and more, for processes it might start
    yield Pair(engine, str(tiny_model), request.param)
    engine.shutdown()


@pytest.fixture(scope="module")
def old(pair):
    """Weights of some steps ago. That an engine was not stopped in any of them is a claim of every test here."""
    return pair.after_steps(NUM_STEPS)


def test_an_engine_that_is_right_is_left_alone(pair, old):
    pair.serve(pair.weights(), pair.version)
    result = pair.step_of(pair.sample())
    pair.judge(result)
    parity = result.parity_by_worker["rollout-0"]
    assert parity.num_tokens == result.facts["trained_tokens"] > 500


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_an_engine_that_is_wrong_stops_the_run(pair, old, fault):
    result = pair.step_of(fault(pair, old))
    with pytest.raises(Halt, match="^rollout-0 samples from another distribution than the learner trains"):
        pair.judge(result)


def test_adapters_are_served_as_they_are_trained_and_an_engine_that_ignores_them_stops_the_run(
    pair, tiny_model
):
    """What others shipped for months: weights arrive, and the sampler goes on with the base model's."""
    lora = {"rank": 8, "alpha": 16}
    adapted = Pair(pair.engine, str(tiny_model), pair.precision, lora=lora, learning_rate=5e-3)
    base = adapted.after_steps(NUM_STEPS)
    adapted.serve(adapted.weights(), adapted.version)
    result = adapted.step_of(adapted.sample())
    adapted.judge(result)
    adapted.serve(base, adapted.version)
    result = adapted.step_of(adapted.sample())
    with pytest.raises(Halt, match="^rollout-0 samples from another distribution than the learner trains"):
        adapted.judge(result)

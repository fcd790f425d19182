"""What a constant divisor of the loss changes, what clipping changes, and that it is told."""

from __future__ import annotations

import pytest
import torch

from tests.shared.learners import make_learner
from tests.shared.tiny_model import make_group

GROUPS = [make_group(0), make_group(1)]
UNCLIPPED = 1e9


def trained(steps=3, **settings):
    """Parameters after some steps on the same groups, and the facts of each."""
    learner = make_learner(warmup_steps=0, **settings)
    facts = [learner.train_step(GROUPS).facts for _ in range(steps)]
    parameters = learner._policy.model.named_parameters()
    return {name: parameter.detach().clone() for name, parameter in parameters}, facts


def distance(one, other):
    """Largest difference of any parameter."""
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_a_normaliser_divides_the_gradient_and_leaves_the_loss_that_is_told():
    _, (alone,) = trained(1)
    _, (divided,) = trained(1, loss_normaliser=50.0)
    assert divided["grad_norm"] == pytest.approx(alone["grad_norm"] / 50, rel=1e-5)
    assert divided["loss"] == alone["loss"]


def test_without_clipping_a_normaliser_is_another_eps_and_nothing_else():
    # A power of two rounds nothing, so the steps are the same to the last bit.
    plain, _ = trained(eps=1e-6, max_grad_norm=UNCLIPPED)
    scaled, _ = trained(eps=1e-6 / 16, loss_normaliser=16.0, max_grad_norm=UNCLIPPED)
    assert distance(plain, scaled) == 0.0
    # With the same eps only parameters with next to no gradient take another step.
    same_eps, _ = trained(eps=1e-8, loss_normaliser=16.0, max_grad_norm=UNCLIPPED)
    plain, _ = trained(eps=1e-8, max_grad_norm=UNCLIPPED)
    step = 1e-4  # of AdamW, for each parameter, at this learning rate
    assert 0 < distance(plain, same_eps) < 0.1 * step


def test_with_clipping_a_normaliser_multiplies_the_norm_at_which_it_begins():
    norm = trained(1)[1][0]["grad_norm"]
    limit = norm / 2
    one, facts = trained(eps=1e-6, max_grad_norm=limit)
    other, scaled = trained(eps=1e-6 / 16, loss_normaliser=16.0, max_grad_norm=limit / 16)
    assert [f["clipped"] for f in facts] == [f["clipped"] for f in scaled] and facts[0]["clipped"] == 1
    assert distance(one, other) < 1e-3 * 1e-4


@pytest.mark.parametrize(("share", "clipped"), [(0.999, 1.0), (1.001, 0.0)])
def test_a_step_tells_whether_its_gradient_was_scaled_down(share, clipped):
    norm = trained(1)[1][0]["grad_norm"]
    facts = trained(1, max_grad_norm=share * norm)[1][0]
    assert facts["clipped"] == clipped and facts["grad_norm"] == pytest.approx(norm)


def test_a_gradient_that_is_always_clipped_counts_every_batch_alike():
    """Why clipping is meant for rare steps: AdamW then sees directions, and no longer how much a batch has to say."""
    averages = []
    for normaliser in (1.0, 1000.0):  # weak and strong signal; only one of the two is clipped
        learner = make_learner(warmup_steps=0, loss_normaliser=normaliser, max_grad_norm=1e-3)
        learner.train_step(GROUPS)
        state = learner._trainer.optimizer.state
        averages.append(
            torch.cat([state[p]["exp_avg"].flatten() for p in learner._policy.parameters.values()])
        )
    strong, weak = (float(average.norm()) / 0.1 for average in averages)
    assert strong == pytest.approx(1e-3, rel=1e-3)
    norm = trained(1)[1][0]["grad_norm"]
    assert weak == pytest.approx(min(1e-3, norm / 1000), rel=1e-3)

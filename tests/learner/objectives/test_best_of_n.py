"""Best-of-N objectives: unbiased where they say so, and biased by what is documented where not."""

from __future__ import annotations

import math

import pytest
import torch

from learner.objectives.config import ObjectiveConfig
from learner.objectives.estimators import bon_weights
from tests.shared.toy_policy import (
    Toy,
    assert_close,
    best_of,
    cosine,
    exact_gradient,
    expected_gradient,
    weigh,
)

SCORES_BN = torch.tensor([[3.0, 1.0, 2.0, 0.0], [2.0, 1.0, 2.0, 0.0]]).double()
REWARDS_BN = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0]]).double()
NOISY = Toy(logits=(0.2, -0.5, 0.4), rewards=(0.5, 1.0, 0.0), scores=(1.0, 2.0, 2.0))
BINARY = Toy(logits=(0.2, -0.5, 0.4), rewards=(1.0, 0.0, 0.0), scores=(0.0, 2.0, 2.0))


def failing(p):
    """Two outcomes, one that fails with probability p."""
    return Toy(logits=(math.log(1 - p), math.log(p)), rewards=(1.0, 0.0), scores=(1.0, 0.0))


def factor(toy, n, config):
    """Expected gradient over grad J_N; with two outcomes both are multiples of one vector."""
    expected = expected_gradient(toy, n, config)
    exact = exact_gradient(toy, best_of(config.num_select, toy.rewards, toy.rewards))
    return float(expected[0] / exact[0])


def binomial_factor(n, num_select, p, weights):
    """E[sum_i w_i grad log pi(y_i)] / grad J_N for weights(f) = weight of a success, of a failure.

    With grad p the gradient of the failure rate, a success has E[grad log pi] = -grad p / (1 - p), a failure
    grad p / p, and grad J_N = -N p^(N-1) grad p.
    """
    total = 0.0
    for f in range(n + 1):
        c = n - f
        probability = math.comb(n, f) * p**f * (1 - p) ** c
        success, failure = weights(f)
        total += probability * (c * success / (1 - p) - f * failure / p)
    return total / (num_select * p ** (num_select - 1))


def test_bon_weights_are_those_of_its_settings():
    by_default = weigh(ObjectiveConfig(num_select=2), REWARDS_BN, SCORES_BN)
    assert_close(by_default, [[1 / 3, -1 / 6, -1 / 6, 0], [1 / 4, -1 / 6, -1 / 4, 0]])
    raw = weigh(ObjectiveConfig(num_select=2, baseline="none"), REWARDS_BN, SCORES_BN)
    assert_close(raw, [[1 / 2, 1 / 6, 1 / 6, 1 / 6], [5 / 12, 1 / 6, 1 / 12, 1 / 6]])
    loo = weigh(ObjectiveConfig(num_select=2, baseline="loo"), REWARDS_BN, SCORES_BN)
    assert_close(loo, [[1 / 2, -1 / 6, -1 / 6, -1 / 6], [5 / 12, -1 / 12, -1 / 4, -1 / 12]])
    other = weigh(ObjectiveConfig(num_select=2, baseline_k=3), REWARDS_BN, SCORES_BN)
    assert other.equal(bon_weights(SCORES_BN, REWARDS_BN, 2, baseline_k=3))


def test_bon_of_one_is_rloo():
    rloo = weigh(ObjectiveConfig(name="rloo"), REWARDS_BN, SCORES_BN)
    assert weigh(ObjectiveConfig(num_select=1), REWARDS_BN, SCORES_BN).equal(rloo)


def test_pass_at_k_and_max_at_k_are_bon_that_selects_by_the_reward():
    for baseline in ("none", "loo", "loo1"):
        settings = {"num_select": 2, "baseline": baseline}
        perfect = weigh(ObjectiveConfig(name="bon", **settings), REWARDS_BN, REWARDS_BN)
        for name in ("pass_at_k", "max_at_k"):
            assert weigh(ObjectiveConfig(name=name, **settings), REWARDS_BN, SCORES_BN).equal(perfect)
    graded = weigh(ObjectiveConfig(name="max_at_k", num_select=2), [[1.0, 2.0, 3.0, 4.0]], [[0.0] * 4])
    assert_close(graded, [[0, 1 / 6, 1 / 2, 1]])


@pytest.mark.parametrize("n", [4, 7])
@pytest.mark.parametrize("k", [2, 4])
def test_pass_at_k_is_the_closed_form_of_its_row(n, k):
    config = ObjectiveConfig(name="pass_at_k", num_select=k)
    for c in range(n + 1):
        share = k / n * math.comb(n - c, k - 1) / math.comb(n - 1, k - 1)
        assert_close(weigh(config, [[1.0] * c + [0.0] * (n - c)]), [[share] * c + [0.0] * (n - c)])


@pytest.mark.parametrize("settings", [{}, {"baseline": "none"}, {"baseline": "loo"}, {"baseline_k": 1}])
@pytest.mark.parametrize("num_select", [1, 2, 3])
def test_bon_is_unbiased_for_its_estimand_with_a_verifier_that_ties_and_errs(num_select, settings):
    config = ObjectiveConfig(name="bon", num_select=num_select, **settings)
    exact = exact_gradient(NOISY, best_of(num_select, NOISY.scores, NOISY.rewards))
    assert_close(expected_gradient(NOISY, 4, config), exact)


@pytest.mark.parametrize("settings", [{}, {"baseline": "none"}, {"baseline": "loo"}, {"baseline_k": 1}])
@pytest.mark.parametrize("num_select", [1, 2, 3])
@pytest.mark.parametrize(("name", "toy"), [("max_at_k", NOISY), ("pass_at_k", BINARY)])
def test_pass_at_k_and_max_at_k_are_unbiased_whatever_the_verifier_thinks(name, toy, num_select, settings):
    config = ObjectiveConfig(name=name, num_select=num_select, **settings)
    exact = exact_gradient(toy, best_of(num_select, toy.rewards, toy.rewards))
    assert_close(expected_gradient(toy, 4, config), exact)
    if num_select > 1:
        by_verifier = exact_gradient(toy, best_of(num_select, toy.scores, toy.rewards))
        assert not torch.allclose(exact, by_verifier, atol=1e-3)


# --- the closed forms with an estimated failure rate ----------------------------------------------------


def slow_rlb(rewards, num_select, max_weight):
    n, c = len(rewards), sum(rewards)
    f = n - c
    p = (f + 0.5) / (n + 1)
    up = min(num_select * p ** (num_select - 1) / (1 - p**num_select), max_weight)
    down = min(num_select * p / (1 - p), max_weight)
    return [(1 - p**num_select) * up / c if reward else -(p**num_select) * down / f for reward in rewards]


@pytest.mark.parametrize("max_weight", [0.5, 8.0, 1e6])
@pytest.mark.parametrize(("n", "num_select"), [(2, 1), (4, 2), (8, 4), (8, 32)])
def test_bon_rlb_is_the_closed_form_of_its_row_for_every_number_of_successes(n, num_select, max_weight):
    config = ObjectiveConfig(name="bon_rlb", num_select=num_select, max_weight=max_weight)
    for c in range(n + 1):
        rewards = [1.0] * c + [0.0] * (n - c)
        assert_close(weigh(config, [rewards]), [slow_rlb(rewards, num_select, max_weight)])


def test_the_weights_that_rlb_and_rlbp_plug_p_into_have_their_exact_values():
    """gbar_4(1/2) = 4/15, g+_4(1/2) = 8/15, g-_4(1/2) = 4, from groups whose plugged-in p is 1/2."""
    rewards = [[1.0, 0.0]]
    rlb = weigh(ObjectiveConfig(name="bon_rlb", num_select=4), rewards)
    assert_close(rlb, [[15 / 16 * 8 / 15, -1 / 16 * 4]])
    rlbp = weigh(ObjectiveConfig(name="bon_rlbp", num_select=4), rewards)
    assert_close(rlbp, [[15 / 16 * 4 / 15, 0]])
    # p = 3/4, N = 2: gbar = 6/7, Best-of-2 succeeds with probability 7/16.
    assert_close(
        weigh(ObjectiveConfig(name="bon_rlbp", num_select=2), [[0.0, 0.0, 1.0, 0.0]]),
        [[0, 0, 7 / 16 * 6 / 7, 0]],
    )


def test_a_clip_bounds_what_a_group_without_success_can_do():
    all_fail = [[0.0] * 8]
    for max_weight in (2.0, 8.0):
        config = ObjectiveConfig(name="bon_rlb", num_select=8, max_weight=max_weight)
        p = 8.5 / 9
        assert_close(weigh(config, all_fail), [[-(p**8) * max_weight / 8] * 8])


def test_groups_that_fail_or_succeed_throughout_are_left_alone_by_rlbp():
    config = ObjectiveConfig(name="bon_rlbp", num_select=4)
    assert_close(weigh(config, [[0.0] * 8, [1.0] * 8]), [[0.0] * 8] * 2)


@pytest.mark.parametrize(
    ("n", "num_select", "p", "documented"),
    [(8, 2, 0.3, 0.875), (8, 2, 0.9, 0.875)]
    + [(8, 4, p, x) for p, x in [(0.1, 4.24), (0.5, 0.96), (0.9, 0.70), (0.98, 0.68)]]
    + [(8, 8, p, x) for p, x in [(0.1, 588), (0.5, 2.4), (0.9, 0.51), (0.98, 0.41)]],
)  # fmt: skip
def test_rlbp_is_off_by_the_documented_factor(n, num_select, p, documented):
    config = ObjectiveConfig(name="bon_rlbp", num_select=num_select)
    biased = factor(failing(p), n, config)
    assert biased == pytest.approx(documented, rel=0.03)
    slow = binomial_factor(n, num_select, p, lambda f: (num_select * (f / n) ** (num_select - 1) / n, 0.0))
    assert biased == pytest.approx(slow, rel=1e-7)


@pytest.mark.parametrize(("p", "documented"), [(0.1, 100), (0.5, 1.8), (0.9, 0.73), (0.98, 0.65)])
def test_rlbp_is_off_by_the_documented_factor_with_sixteen_samples(p, documented):
    config = ObjectiveConfig(name="bon_rlbp", num_select=8)

    def weights(f):
        return float(weigh(config, [[0.0] * f + [1.0] * (16 - f)])[0, -1]) if f < 16 else 0.0, 0.0

    assert binomial_factor(16, 8, p, weights) == pytest.approx(documented, rel=0.05)


def test_rlbp_keeps_the_direction_of_a_prompt_and_pass_at_k_keeps_its_size_too():
    toy = Toy(logits=(0.2, -0.5, 0.4, 1.0), rewards=(1.0, 0.0, 1.0, 0.0), scores=(1.0, 0.0, 1.0, 0.0))
    exact = exact_gradient(toy, best_of(4, toy.rewards, toy.rewards))
    biased = expected_gradient(toy, 6, ObjectiveConfig(name="bon_rlbp", num_select=4))
    assert cosine(biased, exact) == pytest.approx(1.0, abs=1e-12)
    assert abs(biased.norm() / exact.norm() - 1) > 0.05
    unbiased = expected_gradient(toy, 6, ObjectiveConfig(name="pass_at_k", num_select=4))
    assert_close(unbiased, exact)


def test_the_mean_over_kept_successes_would_follow_log_j():
    """With the true p: gbar averaged over successes alone, given that there is one, is grad log J."""
    p, num_select = 0.6, 3
    gbar = num_select * p ** (num_select - 1) * (1 - p) / (1 - p**num_select)
    gradient_of_success = -1 / (1 - p)  # E[grad log pi | success] per grad p
    j, grad_j = 1 - p**num_select, -num_select * p ** (num_select - 1)
    assert gbar * gradient_of_success == pytest.approx(grad_j / j)
    assert j * gbar * gradient_of_success == pytest.approx(grad_j)


@pytest.mark.parametrize("p", [0.3, 0.6, 0.9])
def test_the_true_p_without_a_clip_makes_rlb_reweight_prompts_and_rlbp_unbiased(p):
    num_select = 4
    all_fail = p**num_select
    grad_j = -num_select * p ** (num_select - 1)
    up, down = num_select * p ** (num_select - 1) / (1 - all_fail), num_select * p / (1 - p)
    rlb = (1 - all_fail) * up * (-1 / (1 - p)) - all_fail * down * (1 / p)
    assert rlb / grad_j == pytest.approx((1 + p) / (1 - p))


@pytest.mark.parametrize(("p", "measured"), [(0.1, 21.2), (0.5, 5.17), (0.9, 5.66), (0.98, 6.09)])
def test_rlb_is_off_by_the_measured_factor(p, measured):
    config = ObjectiveConfig(name="bon_rlb", num_select=4)
    biased = factor(failing(p), 8, config)
    assert biased == pytest.approx(measured, rel=0.01)
    slow = binomial_factor(8, 4, p, lambda f: (
        slow_rlb([1.0] + [0.0] * f + [1.0] * (7 - f), 4, 8.0)[0] if f < 8 else 0.0,
        slow_rlb([0.0] * f + [1.0] * (8 - f), 4, 8.0)[0] if f else 0.0,
    ))  # fmt: skip
    assert biased == pytest.approx(slow, rel=1e-7)


def test_other_clips_give_other_objectives():
    by_clip = [
        factor(failing(0.9), 8, ObjectiveConfig(name="bon_rlb", num_select=4, max_weight=clip))
        for clip in (2.0, 8.0, 32.0)
    ]
    assert by_clip[0] < 0.6 * by_clip[1] < 0.6 * by_clip[2]


def test_the_closed_forms_may_be_asked_for_more_samples_than_there_are():
    for name in ("bon_rlb", "bon_rlbp"):
        config = ObjectiveConfig(name=name, num_select=32)
        assert config.num_samples_needed == 2
        (weights_N,) = weigh(config, [[1.0, 0.0, 0.0]])
        assert weights_N[0] > 0 and torch.all(weights_N.isfinite())

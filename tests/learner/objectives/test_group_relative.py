"""Group-relative objectives: unbiased where they say so, and biased by what is documented where not."""

from __future__ import annotations

import itertools
import math
import statistics

import pytest
import torch

from learner.objectives.config import ObjectiveConfig
from tests.shared.toy_policy import (
    Toy,
    assert_close,
    best_of,
    cosine,
    exact_gradient,
    expectation,
    expected_gradient,
    row,
    weigh,
)

GRPO, MAXRL, RFT = (ObjectiveConfig(name=name) for name in ("grpo", "maxrl", "rft"))
LEAD = ObjectiveConfig(name="grpo_passk", divide_by_std=False)
GRADED = Toy(logits=(0.2, -0.5, 0.4), rewards=(0.5, 1.0, 0.0), scores=(1.0, 2.0, 2.0))
BINARY = Toy(logits=(0.2, -0.5, 0.4, 1.0), rewards=(1.0, 0.0, 1.0, 0.0), scores=(0.0, 2.0, 2.0, 1.0))


def mean_reward(toy):
    return exact_gradient(toy, lambda policy: policy @ row(toy.rewards)[0])


def harmonic_pass_at_k(toy, num_terms):
    def value(policy):
        failure = 1 - policy @ row(toy.rewards)[0]
        return sum((1 - failure**k) / k for k in range(1, num_terms + 1))

    return exact_gradient(toy, value)


# --- rloo -----------------------------------------------------------------------------------------------


def test_rloo_sets_each_sample_against_the_mean_of_the_others_and_ignores_scores():
    rewards_BN = torch.rand(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.zeros(5, 6, dtype=torch.float64)
    for b, i in itertools.product(range(5), range(6)):
        others = [rewards_BN[b, j].item() for j in range(6) if j != i]
        expected[b, i] = (rewards_BN[b, i].item() - sum(others) / 5) / 6
    for scores_BN in (torch.zeros(5, 6), rewards_BN, torch.full((5, 6), math.nan)):
        assert_close(weigh(ObjectiveConfig(name="rloo"), rewards_BN, scores_BN), expected)
    weights_BN = weigh(ObjectiveConfig(name="rloo"), [[1.0, 0.0, 0.0, 1.0]])
    assert_close(weights_BN, [[1 / 6, -1 / 6, -1 / 6, 1 / 6]])


@pytest.mark.parametrize("name", ["rloo", "rft"])
def test_rloo_and_rft_are_unbiased_for_the_mean_reward(name):
    for n in (2, 4):
        assert_close(expected_gradient(BINARY, n, ObjectiveConfig(name=name)), mean_reward(BINARY))
    assert_close(expected_gradient(GRADED, 4, ObjectiveConfig(name="rloo")), mean_reward(GRADED))
    assert_close(expected_gradient(BINARY, 1, RFT), mean_reward(BINARY))


def test_rft_imitates_the_samples_that_succeed():
    assert_close(
        weigh(RFT, [[1.0, 0.0, 0.0, 1.0], [0.0] * 4, [1.0] * 4]), [[0.25, 0, 0, 0.25], [0] * 4, [0.25] * 4]
    )


# --- grpo -----------------------------------------------------------------------------------------------


def test_grpo_is_the_published_formula_with_the_sample_deviation():
    rewards, lengths = [0.5, 1.0, 0.0, 0.25], [1, 7, 3, 20]
    mean, std = statistics.mean(rewards), statistics.stdev(rewards)
    expected = [(r - mean) / (std + 1e-6) / length / 4 for r, length in zip(rewards, lengths, strict=True)]
    assert_close(weigh(GRPO, [rewards], lengths=[lengths]), [expected])


@pytest.mark.parametrize("reward", [0.0, 0.1, 1.0, -3.7])
def test_equal_rewards_give_exactly_zero_grpo_and_maxrl_weights(reward):
    assert torch.all(weigh(GRPO, [[reward] * 7]) == 0)
    if reward in (0.0, 1.0):
        assert torch.all(weigh(MAXRL, [[reward] * 7]) == 0)


def test_grpo_does_not_care_how_large_rewards_are_and_rloo_does():
    small, large = [[0.0, 0.3, 1.0, 0.0]], [[0.0, 30.0, 100.0, 0.0]]
    assert_close(weigh(GRPO, small), weigh(GRPO, large).tolist(), tolerance=1e-6)
    rloo = ObjectiveConfig(name="rloo")
    assert_close(100 * weigh(rloo, small), weigh(rloo, large).tolist())


@pytest.mark.parametrize("p", [0.5, 0.9, 0.98])
def test_grpo_of_binary_rewards_and_equal_lengths_only_reweights_prompts(p):
    toy = Toy(logits=(math.log(1 - p), math.log(p)), rewards=(1.0, 0.0), scores=(1.0, 0.0))
    biased, exact = expected_gradient(toy, 8, GRPO), mean_reward(toy)
    assert cosine(biased, exact) == pytest.approx(1.0, abs=1e-12)
    slow = 0.0
    for c in range(1, 8):
        std = math.sqrt(c * (8 - c) / 8 / 7)
        gain = c * (8 - c) / 8 / 8 / (std + 1e-6)  # sum over successes of w, minus that over failures
        slow += math.comb(8, c) * (1 - p) ** c * p ** (8 - c) * gain / ((1 - p) * p)
    assert float(biased[0] / exact[0]) == pytest.approx(slow, rel=1e-9)
    assert slow == pytest.approx({0.5: 1.736, 0.9: 2.178, 0.98: 2.407}[p], rel=0.01)


def test_grpo_bends_the_gradient_of_a_prompt_with_graded_rewards_or_unequal_lengths():
    exact = mean_reward(GRADED)
    assert 0.5 < cosine(expected_gradient(GRADED, 6, GRPO), exact) < 1 - 1e-5
    long_failures = Toy(
        logits=BINARY.logits, rewards=BINARY.rewards, scores=BINARY.scores, lengths=(2, 2, 8, 8)
    )
    exact = mean_reward(long_failures)
    assert 0.5 < cosine(expected_gradient(long_failures, 4, GRPO), exact) < 0.95
    assert_close(expected_gradient(long_failures, 4, ObjectiveConfig(name="rloo")), exact)


# --- grpo_passk -----------------------------------------------------------------------------------------


def slow_grpo_passk(rewards, divide_by_std):
    """A transcription of verl's loop over groups, commit 5689fd7."""
    best, second = sorted(rewards, reverse=True)[:2]
    advantage = best - second
    if divide_by_std:
        advantage /= statistics.stdev(rewards) + 1e-6
    advantages = [0.0] * len(rewards)
    advantages[rewards.index(best)] = advantage
    return advantages


@pytest.mark.parametrize("divide_by_std", [True, False])
def test_grpo_passk_does_what_verl_does_ties_included(divide_by_std):
    config = ObjectiveConfig(name="grpo_passk", divide_by_std=divide_by_std)
    for rewards in itertools.product([0.0, 0.5, 2.0], repeat=4):
        assert_close(weigh(config, [rewards]), [slow_grpo_passk(rewards, divide_by_std)])


def test_grpo_passk_divides_by_the_deviation_by_default_as_verl_does():
    assert ObjectiveConfig(name="grpo_passk").divide_by_std


@pytest.mark.parametrize("n", [2, 3, 5])
def test_grpo_passk_without_the_deviation_is_max_at_k_of_the_whole_group_ties_included(n):
    rewards_BN = torch.tensor(list(itertools.product([0.0, 0.5, 2.0], repeat=n))).double()
    max_at_n = ObjectiveConfig(name="max_at_k", num_select=n)
    assert_close(weigh(LEAD, rewards_BN), weigh(max_at_n, rewards_BN).tolist())


@pytest.mark.parametrize("toy", [GRADED, BINARY])
def test_grpo_passk_is_unbiased_for_the_best_of_the_group_only_without_the_deviation(toy):
    exact = exact_gradient(toy, best_of(4, toy.rewards, toy.rewards))
    assert_close(expected_gradient(toy, 4, LEAD), exact)
    as_in_verl = expected_gradient(toy, 4, ObjectiveConfig(name="grpo_passk"))
    assert abs(as_in_verl.norm() / exact.norm() - 1) > 0.3


def test_the_deviation_bends_grpo_passk_where_rewards_are_graded():
    exact = exact_gradient(GRADED, best_of(4, GRADED.rewards, GRADED.rewards))
    assert cosine(expected_gradient(GRADED, 4, ObjectiveConfig(name="grpo_passk")), exact) < 1 - 1e-3


# --- maxrl ----------------------------------------------------------------------------------------------


def test_maxrl_is_the_published_formula():
    assert_close(weigh(MAXRL, [[1.0, 0.0, 0.0, 0.0]]), [[3 / 4, -1 / 4, -1 / 4, -1 / 4]])
    assert_close(weigh(MAXRL, [[1.0, 1.0, 0.0, 0.0]]), [[1 / 4, 1 / 4, -1 / 4, -1 / 4]])


@pytest.mark.parametrize("n", [2, 3, 5])
def test_maxrl_is_unbiased_for_one_term_less_than_it_has_samples(n):
    expected = expected_gradient(BINARY, n, MAXRL)
    assert_close(expected, harmonic_pass_at_k(BINARY, n - 1))
    assert not torch.allclose(expected, harmonic_pass_at_k(BINARY, n), rtol=0.01)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_baseline_of_maxrl_costs_the_last_term(n):
    def without_baseline(ys_BN):
        rewards_BN = row(BINARY.rewards)[0][ys_BN]
        return rewards_BN / rewards_BN.sum(dim=1, keepdim=True).clamp(min=1)

    assert_close(expectation(BINARY, n, without_baseline), harmonic_pass_at_k(BINARY, n))

    def with_baseline_everywhere(ys_BN):
        return without_baseline(ys_BN) - 1 / n

    assert_close(expectation(BINARY, n, with_baseline_everywhere), harmonic_pass_at_k(BINARY, n))


# --- pass_at_k_training ---------------------------------------------------------------------------------


def published_advantages(rewards, k):
    """The authors' `calc_adv`, over n."""
    n, c = len(rewards), int(sum(rewards))
    rho = 1 - math.comb(n - c, k) / math.comb(n, k)
    sigma = math.sqrt(rho * (1 - rho)) + 1e-6
    success = (1 - rho) / sigma
    failure = (1 - rho - (math.comb(n - c - 1, k - 1) if c < n else 0) / math.comb(n - 1, k - 1)) / sigma
    return [(success if reward else failure) / n for reward in rewards]


@pytest.mark.parametrize(("n", "k"), [(2, 1), (4, 1), (8, 4), (8, 7)])
def test_pass_at_k_training_is_the_published_formula(n, k):
    config = ObjectiveConfig(name="pass_at_k_training", num_select=k)
    for c in range(n + 1):
        rewards = [1.0] * c + [0.0] * (n - c)
        assert_close(weigh(config, [rewards]), [published_advantages(rewards, k)], tolerance=1e-9)


def test_pass_at_k_training_without_its_deviation_would_be_a_multiple_of_the_gradient_of_pass_at_k():
    n, k = 5, 3

    def without_deviation(ys_BN):
        rewards_BN = row(BINARY.rewards)[0][ys_BN]
        failures_B1 = n - rewards_BN.sum(dim=1, keepdim=True)
        missed_B1 = failures_B1 * (failures_B1 - 1) * (failures_B1 - 2) / (n * (n - 1) * (n - 2))
        weights_BN = weigh(ObjectiveConfig(name="pass_at_k_training", num_select=k), rewards_BN)
        return weights_BN * ((missed_B1 * (1 - missed_B1)).clamp(min=0).sqrt() + 1e-6)

    exact = exact_gradient(BINARY, best_of(k, BINARY.rewards, BINARY.rewards))
    assert_close(expectation(BINARY, n, without_deviation), ((1 / k - 1 / n) * exact).tolist())


def test_pass_at_k_training_weighs_prompts_by_their_deviation():
    """The direction of a single prompt is right; of two the easier one counts ever more."""

    def factor(p):
        toy = Toy(logits=(math.log(1 - p), math.log(p)), rewards=(1.0, 0.0), scores=(1.0, 0.0))
        biased = expected_gradient(toy, 8, ObjectiveConfig(name="pass_at_k_training", num_select=4))
        exact = exact_gradient(toy, best_of(4, toy.rewards, toy.rewards))
        assert cosine(biased, exact) == pytest.approx(1.0, abs=1e-12)
        return float(biased[0] / exact[0])

    assert factor(0.5) > 1.5 * factor(0.9)

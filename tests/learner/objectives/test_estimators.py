"""The estimators against exact vectors, subset enumeration, autograd of the exact value and big integers."""

from __future__ import annotations

import itertools
import math
import random
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.objectives.estimators import (
    bon_value,
    bon_weights,
    bootstrap_interval,
    fit_co_scaling,
    pass_at_k,
    tilt_lambda,
)

INF, NAN = math.inf, math.nan
BASELINES = ("none", "loo", "loo1")


def row(values):
    return torch.tensor([[float(value) for value in values]], dtype=torch.float64)


def fractions(text):
    return [Fraction(word) for word in text.split()]


def assert_close(actual, expected, tolerance=1e-12):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=tolerance, equal_nan=True)


# --- the slow transcription: definitions by enumeration of subsets, exact -----------------------------


def outcome(scores, rewards, subset):
    """h(I): mean reward of the members with the highest score."""
    scores = [-INF if math.isnan(score) else score for score in scores]
    best = max(scores[i] for i in subset)
    winners = [Fraction(rewards[i]) for i in subset if scores[i] == best]
    return sum(winners) / len(winners)


def slow_value(scores, rewards, k):
    subsets = list(itertools.combinations(range(len(scores)), k))
    return sum(outcome(scores, rewards, subset) for subset in subsets) / len(subsets)


def slow_weights(scores, rewards, num_select, size):
    """s_i minus N/n times the value of the others: the definition, not the closed form under test."""
    n = len(scores)
    subsets = list(itertools.combinations(range(n), num_select))
    weights = []
    for i in range(n):
        share = sum(outcome(scores, rewards, subset) for subset in subsets if i in subset) / Fraction(
            len(subsets)
        )
        others = [j for j in range(n) if j != i]
        baseline = slow_value([scores[j] for j in others], [rewards[j] for j in others], size) if size else 0
        weights.append(share - Fraction(num_select, n) * baseline)
    return weights


def size_of(baseline, num_select):
    return {"none": 0, "loo": num_select, "loo1": max(num_select - 1, 1)}[baseline]


# --- exact vectors ------------------------------------------------------------------------------------

VECTORS = {
    # name: scores, rewards, N, Jhat, s, loo, loo1
    "TV1": ([3, 1, 2, 0], [1, 0, 0, 1], 2, "1/2", "1/2 1/6 1/6 1/6", "1/2 -1/6 -1/6 -1/6", "1/3 -1/6 -1/6 0"),
    "TV2": (
        [2, 1, 2, 0],
        [1, 0, 0, 1],
        2,
        "5/12",
        "5/12 1/6 1/12 1/6",
        "5/12 -1/12 -1/4 -1/12",
        "1/4 -1/6 -1/4 0",
    ),
    "TV3": ([1, 1, 0, 1], [1, 0, 1, 0], 3, "1/3", "1/3 5/24 1/4 5/24", "1/3 -1/6 0 -1/6", "1/3 -1/6 0 -1/6"),
    "TV4": (
        [5, 5, 5, 5],
        [1, 0, 0, 1],
        2,
        "1/2",
        "1/3 1/6 1/6 1/3",
        "1/6 -1/6 -1/6 1/6",
        "1/6 -1/6 -1/6 1/6",
    ),
    "TV5": ([1, 0, 0, 0], [1, 0, 0, 0], 2, "1/2", "1/2 1/6 1/6 1/6", "1/2 -1/6 -1/6 -1/6", "1/2 0 0 0"),
    "TV6": ([1, 1, 0, 0], [1, 1, 0, 0], 2, "5/6", "1/2 1/2 1/3 1/3", "1/6 1/6 -1/6 -1/6", "1/3 1/3 0 0"),
    "TV7": ([0, 0, 0, 0], [0, 0, 0, 0], 2, "0", "0 0 0 0", "0 0 0 0", "0 0 0 0"),
    "TV8": ([1, 1, 1, 1], [1, 1, 1, 1], 2, "1", "1/2 1/2 1/2 1/2", "0 0 0 0", "0 0 0 0"),
    "TV9": ([1, 2, 3, 4], [1, 2, 3, 4], 2, "10/3", "3/2 3/2 5/3 2", "-1/3 -1/3 0 2/3", "0 1/6 1/2 1"),
    "TV10": ([3, 1, 2, 0], [1, 0, 0, 1], 4, "1", "1 1 1 1", None, "1 0 0 0"),
    "TV11": ([3, 3, 2, 0], [1, 0, 0, 1], 4, "1/2", "1/2 1/2 1/2 1/2", None, "1/2 -1/2 0 0"),
    "TV12": ([3, 1, 2, 0], [1, 0, 0, 1], 1, "1/2", "1/4 0 0 1/4", "1/6 -1/6 -1/6 1/6", "1/6 -1/6 -1/6 1/6"),
    "TV13": ([0, 1, 2, 3], [4, 3, 2, 1], 3, "5/4", "1 1 1 3/4", "1/4 1/4 1/4 -3/4", "0 0 -1/4 -1"),
    "TV14": (
        [2, 2, 1, 1, 0],
        [1, 0, 1, 0, 1],
        3,
        "1/2",
        "9/20 3/20 3/10 3/10 3/10",
        "3/8 -3/8 0 0 0",
        "3/10 -3/10 1/20 -1/20 0",
    ),
    "TV15": (
        [NAN, 1, 0, -INF],
        [0, 1, 0, 0],
        2,
        "1/2",
        "1/6 1/2 1/6 1/6",
        "-1/6 1/2 -1/6 -1/6",
        "0 1/2 0 0",
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_exact_vectors_are_reproduced(name):
    scores, rewards, num_select, value, *expected = VECTORS[name]
    assert_close(bon_value(row(scores), row(rewards), num_select), [float(Fraction(value))], 1e-14)
    assert slow_value(scores, rewards, num_select) == Fraction(value)
    for baseline, weights in zip(BASELINES, expected, strict=True):
        if weights is None:
            with pytest.raises(ValueError, match="needs 5 samples per prompt, there are 4"):
                bon_weights(row(scores), row(rewards), num_select, baseline=baseline)
            continue
        exact = fractions(weights)
        assert slow_weights(scores, rewards, num_select, size_of(baseline, num_select)) == exact
        actual = bon_weights(row(scores), row(rewards), num_select, baseline=baseline)
        assert_close(actual, row(exact), 1e-14)


def test_all_vectors_of_four_samples_agree_in_one_batch():
    for num_select in (2, 3):
        names = [name for name, vector in VECTORS.items() if vector[2] == num_select and len(vector[0]) == 4]
        scores = torch.cat([row(VECTORS[name][0]) for name in names])
        rewards = torch.cat([row(VECTORS[name][1]) for name in names])
        for column, baseline in enumerate(BASELINES):
            expected = torch.cat([row(fractions(VECTORS[name][4 + column])) for name in names])
            assert_close(bon_weights(scores, rewards, num_select, baseline=baseline), expected, 1e-14)


@pytest.mark.parametrize(
    ("scores", "curve"),
    [([3, 1, 2, 0], [1 / 2, 1 / 2, 3 / 4, 1]), ([2, 1, 2, 0], [1 / 2, 5 / 12, 1 / 2, 1 / 2])],
)
def test_best_of_k_curves_are_reproduced_and_missing_beyond_n(scores, curve):
    values = [bon_value(row(scores), row([1, 0, 0, 1]), k).item() for k in range(1, 5)]
    assert values == pytest.approx(curve, abs=1e-15)
    assert math.isnan(bon_value(row(scores), row([1, 0, 0, 1]), 5).item())


# --- unbiasedness, against autograd of the exact value of small categorical policies -----------------


def exact_value(policy, scores, rewards, num_select):
    """J_N = sum over N-tuples of their probability times their outcome; differentiable in `policy`."""
    tuples = list(itertools.product(range(len(scores)), repeat=num_select))
    outcomes = [
        float(outcome([scores[y] for y in ys], [rewards[y] for y in ys], range(num_select))) for ys in tuples
    ]
    probabilities = policy[torch.tensor(tuples)].prod(dim=1)
    return (probabilities * torch.tensor(outcomes, dtype=torch.float64)).sum()


def exact_gradient(logits, scores, rewards, num_select):
    logits = logits.clone().requires_grad_()
    exact_value(logits.softmax(0), scores, rewards, num_select).backward()
    return logits.grad


def all_groups(policy, scores, rewards, num_samples):
    """Every group of n samples: outcomes [B, n], their probability [B], scores and rewards [B, n]."""
    groups_BN = torch.cartesian_prod(*[torch.arange(len(policy))] * num_samples).reshape(-1, num_samples)
    table = torch.tensor([scores, rewards], dtype=torch.float64)
    return groups_BN, policy[groups_BN].prod(dim=1), table[0][groups_BN], table[1][groups_BN]


def expected_gradient(logits, scores, rewards, num_samples, num_select, **settings_):
    policy = logits.softmax(0)
    groups_BN, probability_B, scores_BN, rewards_BN = all_groups(policy, scores, rewards, num_samples)
    weights_BN = bon_weights(scores_BN, rewards_BN, num_select, **settings_)
    score_function_YY = torch.eye(len(policy), dtype=torch.float64) - policy
    return torch.einsum("b,bn,bny->y", probability_B, weights_BN, score_function_YY[groups_BN])


POPULATION = [
    # scores, rewards, N, Best-of-N policy, J, gradient of J by the logits; policy 1/2 1/4 1/8 1/8
    ([1, 2, 2, 0], [0, 1, 0, 1], 2, "3/8 13/32 13/64 1/64", "27/64", "-11/64 33/128 -19/256 -3/256"),
    (
        [1, 2, 2, 0],
        [0, 1, 0, 1],
        3,
        "31/128 129/256 129/512 1/512",
        "259/512",
        "-153/1024 591/2048 -441/4096 -129/4096",
    ),
    (
        [0, 1, 0, 1],
        [0, 1, 0, 1],
        3,
        "25/128 129/256 25/512 129/512",
        "387/512",
        "-225/1024 375/2048 -225/4096 375/4096",
    ),
]


@pytest.mark.parametrize("population", POPULATION)
def test_population_table_is_reproduced_by_value_policy_and_gradient(population):
    scores, rewards, num_select, selected, value, gradient = population
    policy = torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 8], dtype=torch.float64)
    logits = policy.log()
    assert_close(exact_gradient(logits, scores, rewards, num_select), row(fractions(gradient))[0], 1e-14)
    assert_close(exact_value(policy, scores, rewards, num_select), float(Fraction(value)), 1e-14)
    for num_samples in (num_select, num_select + 1):
        _, probability_B, scores_BN, rewards_BN = all_groups(policy, scores, rewards, num_samples)
        estimate = (probability_B * bon_value(scores_BN, rewards_BN, num_select)).sum()
        assert_close(estimate, float(Fraction(value)), 1e-14)
        for outcome_index, probability in enumerate(fractions(selected)):  # reward 1 for one outcome alone
            indicator = [float(index == outcome_index) for index in range(4)]
            _, _, _, indicator_BN = all_groups(policy, scores, indicator, num_samples)
            estimate = (probability_B * bon_value(scores_BN, indicator_BN, num_select)).sum()
            assert_close(estimate, float(probability), 1e-14)
        for baseline in BASELINES:
            if baseline == "loo" and num_samples == num_select:
                continue
            actual = expected_gradient(logits, scores, rewards, num_samples, num_select, baseline=baseline)
            assert_close(actual, row(fractions(gradient))[0], 1e-12)


TOYS = {
    "verifier with ties, other reward": ([1.0, 2.0, 2.0, 0.0], [0.0, 1.0, 0.25, 1.0]),
    "verifier without ties, poor": ([3.0, 0.0, 1.0, 2.0], [-1.0, 2.0, 0.5, 0.0]),
    "verifier equals binary reward": ([0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0]),
    "verifier without a say": ([7.0, 7.0, 7.0, 7.0], [1.0, 0.0, 0.0, 3.0]),
    "verifier that rejects by -inf": ([-INF, 0.5, -INF, 0.25], [0.0, 1.0, 1.0, 0.0]),
}


@pytest.mark.parametrize("toy", TOYS)
@pytest.mark.parametrize(
    ("num_samples", "num_select"), [(2, 1), (2, 2), (3, 2), (4, 4), (5, 3), (5, 1), (5, 5)]
)
def test_expected_gradient_is_the_exact_gradient_for_every_baseline(toy, num_samples, num_select):
    scores, rewards = TOYS[toy]
    logits = torch.tensor([0.3, -0.7, 0.9, -0.2], dtype=torch.float64)
    exact = exact_gradient(logits, scores, rewards, num_select)
    variants = [{"baseline": "none"}, {"baseline": "loo1"}]
    variants += [{"baseline": "loo"}] if num_samples > num_select else []
    variants += [{"baseline_k": k} for k in range(1, num_samples)]
    for variant in variants:
        actual = expected_gradient(logits, scores, rewards, num_samples, num_select, **variant)
        assert_close(actual, exact, 1e-12)


def test_centring_the_weights_again_would_bias_the_gradient_as_documented():
    scores, rewards = TOYS["verifier with ties, other reward"]
    policy = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    logits, n, num_select = policy.log(), 4, 3
    groups_BN, probability_B, scores_BN, rewards_BN = all_groups(policy, scores, rewards, n)
    weights_BN = bon_weights(scores_BN, rewards_BN, num_select, baseline="loo1")
    weights_BN = weights_BN - weights_BN.mean(dim=1, keepdim=True)
    score_function_YY = torch.eye(4, dtype=torch.float64) - policy
    biased = torch.einsum("b,bn,bny->y", probability_B, weights_BN, score_function_YY[groups_BN])
    of_n = exact_gradient(logits, scores, rewards, num_select)
    of_one_less = exact_gradient(logits, scores, rewards, num_select - 1)
    assert_close(biased, (1 - num_select / n) * of_n + num_select / n * of_one_less, 1e-12)


def test_loo1_has_the_smallest_variance_of_the_three_on_a_noisy_verifier():
    scores, rewards = TOYS["verifier with ties, other reward"]
    policy = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    groups_BN, probability_B, scores_BN, rewards_BN = all_groups(policy, scores, rewards, 5)
    score_function_YY = torch.eye(4, dtype=torch.float64) - policy
    second_moment = {}
    for baseline in BASELINES:
        weights_BN = bon_weights(scores_BN, rewards_BN, 3, baseline=baseline)
        gradient_BY = torch.einsum("bn,bny->by", weights_BN, score_function_YY[groups_BN])
        second_moment[baseline] = (probability_B * gradient_BY.square().sum(dim=1)).sum().item()
    assert second_moment["loo1"] < second_moment["loo"] < second_moment["none"]


# --- the closed form against enumeration of subsets, on random groups --------------------------------

score_values = st.sampled_from([-INF, NAN, -1.5, 0.0, -0.0, 0.25, 1.0, 2.0, 1e300])
reward_values = st.integers(-8, 8).map(lambda eighths: eighths / 8)
groups = st.integers(1, 7).flatmap(
    lambda n: st.tuples(
        st.lists(score_values, min_size=n, max_size=n), st.lists(reward_values, min_size=n, max_size=n)
    )
)


@settings(max_examples=150, deadline=None)
@given(group=groups, data=st.data())
def test_values_and_weights_equal_the_enumeration_of_subsets(group, data):
    scores, rewards = group
    n = len(scores)
    num_select = data.draw(st.integers(1, n))
    assert_close(
        bon_value(row(scores), row(rewards), num_select), [float(slow_value(scores, rewards, num_select))]
    )
    size = data.draw(st.integers(0, n - 1))
    actual = bon_weights(
        row(scores),
        row(rewards),
        num_select,
        baseline="none" if size == 0 else "loo1",
        baseline_k=size or None,
    )
    assert_close(actual, row(slow_weights(scores, rewards, num_select, size)))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_masked_rows_equal_the_same_rows_without_the_masked_entries(data):
    num_rows, n = data.draw(st.integers(1, 4)), data.draw(st.integers(2, 7))
    num_select = data.draw(st.integers(1, n))
    size = data.draw(st.integers(1, n - 1))
    junk = st.sampled_from([NAN, INF, -INF, 0.0, 5.0])
    kept, scores, rewards = [], [], []
    for _ in range(num_rows):
        kept.append(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
        scores.append([data.draw(score_values if keep else junk) for keep in kept[-1]])
        rewards.append([data.draw(reward_values if keep else junk) for keep in kept[-1]])
    scores_BN, rewards_BN = torch.tensor(scores).double(), torch.tensor(rewards).double()
    mask_BN = torch.tensor(kept)
    weights_BN = bon_weights(scores_BN, rewards_BN, num_select, baseline_k=size, mask=mask_BN)
    values_B = bon_value(scores_BN, rewards_BN, num_select, mask=mask_BN)
    for b in range(num_rows):
        chosen = [i for i in range(n) if kept[b][i]]
        row_scores, row_rewards = [scores[b][i] for i in chosen], [rewards[b][i] for i in chosen]
        expected = torch.zeros(n, dtype=torch.float64)
        if len(chosen) >= max(num_select, size + 1):
            exact = slow_weights(row_scores, row_rewards, num_select, size)
            expected[chosen] = torch.tensor([float(weight) for weight in exact], dtype=torch.float64)
        assert_close(weights_BN[b], expected)
        value = float(slow_value(row_scores, row_rewards, num_select)) if len(chosen) >= num_select else NAN
        assert_close(values_B[b], value)


def test_a_row_that_is_masked_entirely_gets_zero_weights_and_no_value():
    mask = torch.tensor([[False] * 4, [True] * 4])
    scores, rewards = row([3, 1, 2, 0]).repeat(2, 1), row([1, 0, 0, 1]).repeat(2, 1)
    weights = bon_weights(scores, rewards, 2, mask=mask)
    assert weights[0].tolist() == [0.0] * 4
    assert_close(weights[1], row(fractions("1/3 -1/6 -1/6 0"))[0], 1e-14)
    assert_close(bon_value(scores, rewards, 2, mask=mask), [NAN, 0.5])


def test_loo_of_a_row_with_exactly_num_select_samples_is_zero_but_loo1_is_not():
    mask = torch.tensor([[True, True, True, True, False]])
    scores, rewards = row([3, 1, 2, 0, 9]), row([1, 0, 0, 1, 9])
    assert bon_weights(scores, rewards, 4, baseline="loo", mask=mask).tolist() == [[0.0] * 5]
    assert bon_weights(scores, rewards, 4, baseline="loo1", mask=mask).tolist() == [[1.0, 0.0, 0.0, 0.0, 0.0]]


@settings(max_examples=60, deadline=None)
@given(group=groups.filter(lambda group: len(group[0]) >= 2), data=st.data())
def test_weights_follow_permutations_ignore_reward_shifts_and_see_only_the_order_of_scores(group, data):
    scores, rewards = row(group[0]), row(group[1])
    n = scores.shape[1]
    num_select = data.draw(st.integers(1, n))
    permutation = data.draw(st.permutations(range(n)))
    weights = bon_weights(scores, rewards, num_select)
    assert_close(
        bon_weights(scores[:, permutation], rewards[:, permutation], num_select), weights[:, permutation]
    )
    assert_close(bon_weights(scores, rewards + 1000.0, num_select), weights)
    assert_close(bon_weights(scores, -3.0 * rewards, num_select), -3.0 * weights)
    squashed = scores.nan_to_num(nan=-INF, neginf=-INF).atan()
    assert_close(bon_weights(squashed, rewards, num_select), weights)
    spread = (rewards.max() - rewards.min()).item()
    assert (n * weights).abs().max().item() <= num_select * spread + 1e-12


@settings(max_examples=60, deadline=None)
@given(group=groups.filter(lambda group: len(group[0]) >= 3), data=st.data())
def test_sums_of_weights_are_the_documented_multiples_of_values(group, data):
    scores, rewards = row(group[0]), row(group[1])
    num_select = data.draw(st.integers(2, scores.shape[1] - 1))
    value = bon_value(scores, rewards, num_select)
    one_less = bon_value(scores, rewards, num_select - 1)
    sums = {
        baseline: bon_weights(scores, rewards, num_select, baseline=baseline).sum(1) for baseline in BASELINES
    }
    assert_close(sums["none"], num_select * value)
    assert_close(sums["loo"], torch.zeros(1))
    assert_close(sums["loo1"], num_select * (value - one_less))


# --- rules for awkward input --------------------------------------------------------------------------


def test_nan_scores_count_as_minus_infinity_and_infinity_as_the_largest_number():
    rewards = row([1, 0, 0.5, 0.25])
    largest = torch.finfo(torch.float64).max
    for baseline in ("none", "loo1"):
        as_lowest = bon_weights(row([NAN, 2, 1, -INF]), rewards, 2, baseline=baseline)
        assert as_lowest.equal(bon_weights(row([-INF, 2, 1, -INF]), rewards, 2, baseline=baseline))
        as_largest = bon_weights(row([INF, 2, 1, INF]), rewards, 2, baseline=baseline)
        assert as_largest.equal(bon_weights(row([largest, 2, 1, largest]), rewards, 2, baseline=baseline))
        assert as_largest.equal(bon_weights(row([3, 2, 1, 3]), rewards, 2, baseline=baseline))


def test_an_infinite_score_is_not_mistaken_for_padding():
    mask = torch.tensor([[True, True, True, False, False]])
    weights = bon_weights(row([INF, 1, 2, INF, NAN]), row([1, 0, 0, NAN, 7]), 2, mask=mask)
    assert_close(weights, [[2 / 3, 0.0, 0.0, 0.0, 0.0]])


def test_low_precision_and_integer_inputs_are_compared_in_float64():
    scores, rewards = torch.tensor([[3, 1, 2, 0]]), torch.tensor([[1, 0, 0, 1]])
    expected = row(fractions("1/3 -1/6 -1/6 0"))
    for dtype in (torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64):
        weights = bon_weights(scores.to(dtype), rewards.to(dtype), 2)
        assert weights.dtype == torch.float64
        assert_close(weights, expected, 1e-15)
    close = torch.tensor([[1.0, 1.0 + 1e-12]], dtype=torch.float64)  # a tie only in float32
    assert_close(bon_value(close, row([0, 1]), 2), [1.0])
    assert_close(bon_value(close.float(), row([0, 1]), 2), [0.5])


@pytest.mark.parametrize("reward", [NAN, INF, -INF])
def test_a_reward_that_is_not_finite_is_refused_by_name_and_place(reward):
    rewards = row([1, 0, reward, 0])
    for call in (
        lambda: bon_weights(row([1, 2, 3, 4]), rewards, 2),
        lambda: bon_value(row([1, 2, 3, 4]), rewards, 2),
    ):
        with pytest.raises(ValueError, match=r"rewards\[0, 2\] = .*(nan|inf).* is not finite") as refused:
            call()
        assert "\n" not in str(refused.value)


def test_too_few_samples_are_refused_in_one_line_with_values_and_remedy():
    scores, rewards = torch.zeros(2, 4), torch.zeros(2, 4)
    with pytest.raises(
        ValueError, match=r"num_select = 5 .* needs 5 samples per prompt.* 4: draw more"
    ) as refused:
        bon_weights(scores, rewards, 5)
    assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="num_select = 5 .* needs 5"):
        bon_weights(scores, rewards, 5, baseline="none")
    with pytest.raises(ValueError, match="num_select = 4 with a baseline of 4 other samples needs 5"):
        bon_weights(scores, rewards, 4, baseline="loo")
    with pytest.raises(ValueError, match="num_select = 2 with a baseline of 4 other samples needs 5"):
        bon_weights(scores, rewards, 2, baseline_k=4)
    with pytest.raises(ValueError, match="num_select = 1 with a baseline of 1 other samples needs 2"):
        bon_weights(scores[:, :1], rewards[:, :1], 1)
    assert bon_weights(scores[:, :1], rewards[:, :1] + 2, 1, baseline="none").tolist() == [[2.0], [2.0]]


def test_settings_that_mean_nothing_are_refused():
    scores, rewards = torch.zeros(1, 4), torch.zeros(1, 4)
    with pytest.raises(ValueError, match="num_select = 0 is not positive"):
        bon_weights(scores, rewards, 0)
    with pytest.raises(ValueError, match="baseline_k = 0 is not positive"):
        bon_weights(scores, rewards, 2, baseline_k=0)
    with pytest.raises(ValueError, match="baseline = 'mean' is unknown: use one of none, loo, loo1"):
        bon_weights(scores, rewards, 2, baseline="mean")
    with pytest.raises(ValueError, match="baseline_k = 2 has no effect with baseline = 'none'"):
        bon_weights(scores, rewards, 2, baseline="none", baseline_k=2)
    with pytest.raises(ValueError, match="k = 0 is not positive"):
        bon_value(scores, rewards, 0)


# --- exact zeros --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 16, 64, 257])
def test_equal_rewards_give_exactly_zero_weights_whatever_the_scores(n):
    torch.manual_seed(n)
    scores = torch.randint(0, 5, (8, n)).double()
    for reward in (0.0, 1.0, 0.1, -1e6 / 3):
        for num_select in {1, 2, n // 2 + 1, n}:
            assert bon_weights(scores, torch.full((8, n), reward), num_select).count_nonzero() == 0


@pytest.mark.parametrize("n", [4, 16, 64, 512])
def test_loo1_with_binary_rewards_touches_successes_only_and_only_when_failures_suffice(n):
    rewards = torch.stack([(torch.arange(n) < c).double() for c in range(n + 1)])
    for num_select in {2, 3, n // 4, n // 2, n}:
        if num_select < 2:
            continue
        weights = bon_weights(rewards, rewards, num_select)
        assert weights[rewards == 0].count_nonzero() == 0
        share_B = [
            num_select * math.comb(n - c, num_select - 1) / (n * math.comb(n - 1, num_select - 1))
            for c in range(n + 1)
        ]
        expected = rewards * torch.tensor(share_B, dtype=torch.float64).unsqueeze(1)
        assert_close(weights, expected, 2.3e-16 * num_select)
        too_easy = n - torch.arange(n + 1) < num_select - 1
        assert weights[too_easy].count_nonzero() == 0


# --- closed forms of the special case scores = rewards -------------------------------------------------


@pytest.mark.parametrize(("n", "k"), [(6, 1), (6, 2), (6, 5), (9, 4), (64, 16), (64, 63)])
def test_binary_rewards_that_select_themselves_give_the_pass_at_k_closed_forms(n, k):
    def rho(n, c, k):
        return 1 - Fraction(math.comb(n - c, k), math.comb(n, k))

    for c in range(1, n):
        f = n - c
        rewards = row([1] * c + [0] * f)
        fail = Fraction(math.comb(f, k), math.comb(n, k))
        exact = {
            "none": (Fraction(k, n), Fraction(k, n) * rho(n - 1, c, k - 1)),
            "loo": (Fraction(k, n - k) * fail, -Fraction(k, n - k) * Fraction(c, f) * fail),
        }
        if k >= 2:
            exact["loo1"] = (Fraction(k * math.comb(f, k - 1), n * math.comb(n - 1, k - 1)), Fraction(0))
        assert_close(bon_value(rewards, rewards, k), [float(rho(n, c, k))], 1e-14)
        for baseline, (success, failure) in exact.items():
            weights = bon_weights(rewards, rewards, k, baseline=baseline)
            assert_close(weights, row([success] * c + [failure] * f), 1e-13)


@settings(max_examples=60, deadline=None)
@given(rewards=st.lists(reward_values, min_size=2, max_size=9), data=st.data())
def test_continuous_max_at_k_equals_the_formula_that_ignores_ties(rewards, data):
    rewards = sorted(Fraction(reward) for reward in rewards)
    n = len(rewards)
    k = data.draw(st.integers(2, n))
    shares = [
        (
            rewards[i - 1] * math.comb(i - 1, k - 1)
            + sum(rewards[j - 1] * math.comb(j - 2, k - 2) for j in range(i + 1, n + 1))
        )
        / Fraction(math.comb(n, k))
        for i in range(1, n + 1)
    ]
    assert_close(bon_weights(row(rewards), row(rewards), k, baseline="none"), row(shares))


# --- numerical stability: big integers ------------------------------------------------------------------


def big_shares(rewards, size):
    """C(n, size) times Jhat and s^(size) for strictly increasing scores, in exact integers."""
    n = len(rewards)
    containing = [math.comb(j - 1, size - 1) for j in range(1, n + 1)]
    with_one_more = [math.comb(j - 2, size - 2) if j >= 2 and size >= 2 else 0 for j in range(1, n + 1)]
    shares, above = [], 0
    for i in reversed(range(n)):
        shares.append(rewards[i] * containing[i] + above)
        above += rewards[i] * with_one_more[i]
    return sum(reward * weight for reward, weight in zip(rewards, containing, strict=True)), shares[::-1]


@pytest.mark.parametrize("num_select", [1, 2, 16, 100, 2048, 4095, 4096])
def test_four_thousand_samples_lose_no_precision(num_select):
    n = 4096
    generator = random.Random(num_select)
    rewards = [generator.randint(0, 3) for _ in range(n)]
    order = list(range(n))
    generator.shuffle(order)
    scores_BN = torch.empty(1, n, dtype=torch.float64)
    rewards_BN = torch.empty(1, n, dtype=torch.float64)
    scores_BN[0, order] = torch.arange(n, dtype=torch.float64)
    rewards_BN[0, order] = torch.tensor(rewards, dtype=torch.float64)

    total = math.comb(n, num_select)
    value, shares = big_shares(rewards, num_select)
    assert bon_value(scores_BN, rewards_BN, num_select).item() == pytest.approx(value / total, rel=1e-12)
    actual = bon_weights(scores_BN, rewards_BN, num_select, baseline="none")[0, order]
    exact = torch.tensor([share / total for share in shares], dtype=torch.float64)
    torch.testing.assert_close(actual, exact, rtol=1e-11, atol=1e-300)

    # s - N/(n-k) (Jhat_k - s^(k)), the other form of the same baseline, over a common denominator.
    size = max(num_select - 1, 1)
    size_total = math.comb(n, size)
    size_value, size_shares = big_shares(rewards, size)
    exact = torch.tensor(
        [
            (share * size_total * (n - size) - num_select * total * (size_value - other))
            / (total * size_total * (n - size))
            for share, other in zip(shares, size_shares, strict=True)
        ],
        dtype=torch.float64,
    )
    actual = bon_weights(scores_BN, rewards_BN, num_select)[0, order]
    assert_close(actual, exact, 1e-12 * 3 * num_select / n)


@pytest.mark.parametrize(("n", "k", "c"), [(4096, 64, 1), (4096, 64, 40), (4096, 2048, 2), (4096, 4095, 1)])
def test_large_tie_blocks_lose_no_precision(n, k, c):
    rewards = row([1] * c + [0] * (n - c))
    share = Fraction(k * math.comb(n - c, k - 1), n * math.comb(n - 1, k - 1))
    weights = bon_weights(rewards, rewards, k)[0]
    assert weights[:c].tolist() == pytest.approx([float(share)] * c, rel=1e-10)
    assert weights[c:].count_nonzero() == 0
    exact = float(1 - Fraction(math.comb(n - c, k), math.comb(n, k)))
    assert bon_value(rewards, rewards, k).item() == pytest.approx(exact, rel=1e-11)


# --- pass@k ---------------------------------------------------------------------------------------------


def test_pass_at_k_equals_the_enumeration_of_subsets():
    assert pass_at_k(5, 2, 2).item() == pytest.approx(7 / 10, abs=1e-15)
    for n in range(1, 8):
        for k in range(1, n + 1):
            correct = torch.arange(n + 1)
            exact = [
                sum(min(subset) < c for subset in itertools.combinations(range(n), k)) / math.comb(n, k)
                for c in range(n + 1)
            ]
            assert_close(pass_at_k(n, correct, k), exact, 1e-14)


def test_pass_at_k_handles_prompts_with_different_numbers_of_samples_and_reports_missing():
    actual = pass_at_k(torch.tensor([[5, 4], [1, 2]]), torch.tensor([[2, 4], [1, 0]]), 2)
    assert_close(actual, [[0.7, 1.0], [NAN, 0.0]], 1e-15)
    for k in (1, 3, 16):
        rewards = torch.rand(20, 16, generator=torch.Generator().manual_seed(k)).lt(0.2).double()
        assert_close(pass_at_k(16, rewards.sum(1).long(), k), bon_value(rewards, rewards, k), 1e-13)


def test_pass_at_k_is_precise_for_thousands_of_samples():
    for n, c, k in [(4096, 1, 2), (4096, 3, 1000), (4096, 2000, 4), (10_000, 1, 1)]:
        exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
        assert pass_at_k(n, c, k).item() == pytest.approx(float(exact), rel=1e-12)


def test_pass_at_k_is_unbiased_where_the_plug_in_is_not():
    n, k, failure = 16, 8, 0.9
    correct = torch.arange(n + 1)
    probability = torch.tensor(
        [math.comb(n, c) * (1 - failure) ** c * failure ** (n - c) for c in range(n + 1)]
    )
    assert (probability.double() @ pass_at_k(n, correct, k)).item() == pytest.approx(1 - failure**k, abs=1e-6)
    plug_in = probability.double() @ (1 - (1 - correct / n).double() ** k)
    assert plug_in.item() == pytest.approx(0.491, abs=1e-3)


def test_pass_at_k_refuses_counts_that_cannot_be():
    for correct in (-1, 6):
        with pytest.raises(ValueError, match="num_correct .* not within 0 and num_samples"):
            pass_at_k(5, correct, 2)
    with pytest.raises(ValueError, match="k = 0 is not positive"):
        pass_at_k(5, 2, 0)


# --- tilt -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_select", "by_kl", "by_moment"),
    [
        (1, 0.0, 0.0),
        (2, 2.288641, 2.149126),
        (4, 4.916908, 4.801008),
        (8, 9.054541, 8.989913),
        (16, 17.031899, 16.999988),
        (32, 33.015789, 33.000000),
        (64, 65.007853, 65.000000),
        (128, 129.003916, 129.000000),
    ],
)
def test_tilt_strengths_are_those_of_the_table(num_select, by_kl, by_moment):
    assert tilt_lambda(num_select) == pytest.approx(by_kl, abs=5.1e-7)
    assert tilt_lambda(num_select, match="moment") == pytest.approx(by_moment, abs=5.1e-7)


def test_tilt_matches_divergence_and_mean_rank_by_numerical_integration():
    rank = (torch.arange(2_000_000, dtype=torch.float64) + 0.5) / 2_000_000
    for num_select in (2, 4, 16):
        density = (tilt_lambda(num_select) * rank).exp()
        density /= density.mean()
        divergence = (density * density.log()).mean().item()
        assert divergence == pytest.approx(math.log(num_select) - (num_select - 1) / num_select, abs=1e-9)
        density = (tilt_lambda(num_select, match="moment") * rank).exp()
        density /= density.mean()
        assert (density * rank).mean().item() == pytest.approx(num_select / (num_select + 1), abs=1e-9)


def test_tilt_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="num_select = 0 is not positive"):
        tilt_lambda(0)
    with pytest.raises(ValueError, match="match = 'tv' is unknown"):
        tilt_lambda(4, match="tv")


# --- bootstrap ------------------------------------------------------------------------------------------


def test_bootstrap_covers_the_true_mean_about_as_often_as_promised():
    generator = torch.Generator().manual_seed(7)
    num_prompts, num_studies, n = 80, 1000, 8
    rate = torch.rand(num_prompts, num_studies, generator=generator, dtype=torch.float64)
    draws = torch.rand(n, num_prompts, num_studies, generator=generator, dtype=torch.float64)
    estimates = pass_at_k(n, (draws < rate).sum(0), 2)
    truth = 1 - 1 / 3  # mean over uniform success rates of 1 - (1 - rate)^2
    low, high = bootstrap_interval(estimates, num_resamples=2000)
    coverage = ((low <= truth) & (truth <= high)).double().mean().item()
    assert 0.92 < coverage < 0.965


def test_bootstrap_interval_is_close_to_the_normal_one_for_many_prompts():
    values = torch.randn(2000, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2 + 1
    low, high = bootstrap_interval(values, confidence=0.9)
    half = 1.6449 * values.std().item() / math.sqrt(2000)
    assert low.shape == high.shape == ()
    assert low.item() == pytest.approx(values.mean().item() - half, abs=0.05 * half)
    assert high.item() == pytest.approx(values.mean().item() + half, abs=0.05 * half)


def test_bootstrap_is_reproducible_and_resamples_the_same_prompts_for_every_column():
    values = torch.rand(50, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    low, high = bootstrap_interval(values, num_resamples=1500)
    again = bootstrap_interval(values, num_resamples=1500)
    assert low.equal(again[0]) and high.equal(again[1])
    assert not low.equal(bootstrap_interval(values, num_resamples=1500, seed=1)[0])
    for column in range(3):
        alone = bootstrap_interval(values[:, column], num_resamples=1500)
        assert_close(torch.stack(alone), torch.stack([low[column], high[column]]), 1e-14)


def test_a_paired_difference_is_free_of_what_both_models_share():
    difficulty = torch.rand(100, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    low, high = bootstrap_interval((difficulty + 0.05) - difficulty)
    assert low.item() == pytest.approx(0.05, abs=1e-12) and high.item() == pytest.approx(0.05, abs=1e-12)


def test_a_missing_value_makes_its_own_interval_missing_and_no_other():
    values = torch.ones(10, 2, dtype=torch.float64)
    values[3, 1] = NAN
    low, high = bootstrap_interval(values)
    assert_close(torch.stack([low, high]), [[1.0, NAN], [1.0, NAN]])


def test_bootstrap_refuses_settings_that_mean_nothing():
    with pytest.raises(ValueError, match="confidence = 95 is not between 0 and 1"):
        bootstrap_interval(torch.ones(3), confidence=95)
    with pytest.raises(ValueError, match="per_prompt has no rows"):
        bootstrap_interval(torch.ones(0))
    with pytest.raises(ValueError, match="num_resamples = 0 is not positive"):
        bootstrap_interval(torch.ones(3), num_resamples=0)


# --- co-scaling -----------------------------------------------------------------------------------------

KS = [1, 2, 4, 8, 16, 32, 64]


@pytest.mark.parametrize(("a", "b"), [(-1.9, -0.6), (-0.2, -1.1), (-6.0, -0.3), (-3.0, -0.05)])
def test_co_scaling_recovers_a_known_law(a, b):
    curve = (a * torch.tensor(KS, dtype=torch.float64) ** b).exp()
    law = fit_co_scaling(KS, curve)
    assert law.a.item() == pytest.approx(a, abs=1e-8)
    assert law.b.item() == pytest.approx(b, abs=1e-8)


def test_co_scaling_describes_a_beta_population_of_failure_rates():
    ks = torch.arange(1, 65, dtype=torch.float64)
    log_beta = math.lgamma(0.6) + math.lgamma(0.8) - math.lgamma(1.4)
    curve = 1 - (torch.lgamma(0.6 + ks) + math.lgamma(0.8) - torch.lgamma(1.4 + ks) - log_beta).exp()
    law = fit_co_scaling(KS, curve[[k - 1 for k in KS]])
    assert ((law.a * ks**law.b).exp() - curve).abs().max().item() < 0.0040
    assert law.a < 0 and law.b < 0


def test_co_scaling_minimises_the_squared_error_in_pass_at_k():
    noise = torch.tensor([0.01, -0.02, 0.015, -0.01, 0.0, 0.02, -0.01], dtype=torch.float64)
    curve = (-1.9 * torch.tensor(KS, dtype=torch.float64) ** -0.6).exp() + noise
    law = fit_co_scaling(KS, curve)
    a, b = (torch.tensor(value.item(), dtype=torch.float64, requires_grad=True) for value in law)
    ((a * torch.tensor(KS, dtype=torch.float64) ** b).exp() - curve).square().sum().backward()
    assert abs(a.grad.item()) < 1e-9 and abs(b.grad.item()) < 1e-9


def test_co_scaling_of_many_curves_equals_one_at_a_time_and_serves_the_bootstrap():
    generator = torch.Generator().manual_seed(5)
    rate = torch.rand(200, generator=generator, dtype=torch.float64) ** 2
    correct = torch.binomial(torch.full_like(rate, 64), rate, generator=generator).long()
    per_prompt = torch.stack([pass_at_k(64, correct, k) for k in KS], dim=1)
    point = fit_co_scaling(KS, per_prompt.mean(0))
    many = fit_co_scaling(KS, torch.stack([per_prompt.mean(0), per_prompt[:100].mean(0)]))
    assert_close(many.a[0], point.a.item(), 1e-9)
    assert_close(many.b[1], fit_co_scaling(KS, per_prompt[:100].mean(0)).b.item(), 1e-9)
    low, high = bootstrap_interval(
        per_prompt,
        statistic=lambda means_SK: torch.stack(fit_co_scaling(KS, means_SK), dim=1),
        num_resamples=500,
    )
    assert low.shape == (2,)
    for index, value in enumerate(point):
        assert low[index] < value < high[index]
        assert 0.0 < (high - low)[index].item() < 0.6


def test_co_scaling_refuses_too_few_points_and_missing_ones():
    with pytest.raises(ValueError, match="only 2 values strictly between 0 and 1"):
        fit_co_scaling([1, 2, 4], torch.tensor([0.5, 0.75, 1.0]))
    with pytest.raises(ValueError, match="missing value"):
        fit_co_scaling([1, 2, 4, 8], torch.tensor([0.5, 0.75, 0.8, NAN]))

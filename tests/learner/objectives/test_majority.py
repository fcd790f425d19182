"""majority@k against the enumeration of subsets and an exact computation in integers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.objectives.majority import majority_values


def slow_majority(
    counts: Sequence[int], rewards: Sequence[float], k: int, num_silent: int = 0
) -> float | Fraction:
    """Mean over all subsets of k samples of the mean reward of the answers with most votes; 0 without a vote."""
    answers = [index for index, count in enumerate(counts) for _ in range(count)] + [None] * num_silent
    total: float | Fraction = Fraction(0)
    subsets = list(itertools.combinations(answers, k))
    for subset in subsets:
        votes = [subset.count(index) for index in range(len(counts))]
        winners = [index for index, vote in enumerate(votes) if vote == max(votes) and vote > 0]
        total += sum((Fraction(rewards[index], len(winners)) for index in winners), Fraction(0))
    return total / len(subsets)


def exact_win(answer_counts: Sequence[int], winner: int, k: int, num_silent: int = 0) -> Fraction:
    """P(the answer wins), by polynomials whose coefficients are the digits of integers: nothing is rounded."""
    counts = list(answer_counts)
    num_samples = sum(counts) + num_silent
    winner_count = counts.pop(winner)
    wins = Fraction(0)
    for votes in range(1, min(k, winner_count) + 1):
        degree = k - votes
        up_to_degree = (1 << num_samples * (degree + 1)) - 1
        silent = sum(math.comb(num_silent, j) << num_samples * j for j in range(degree + 1))
        ways = [silent] + [0] * (degree // votes)
        for count in counts:
            fewer = sum(math.comb(count, j) << num_samples * j for j in range(votes))
            equal = math.comb(count, votes) << num_samples * votes
            one_tie_less = [0, *ways[:-1]]
            ways = [
                (same * fewer + less * equal) & up_to_degree
                for same, less in zip(ways, one_tie_less, strict=True)
            ]
        shares = sum(Fraction(way >> num_samples * degree, ties + 1) for ties, way in enumerate(ways))
        wins += math.comb(winner_count, votes) * shares
    return wins / math.comb(num_samples, k)


@pytest.mark.parametrize(
    ("counts", "right", "k", "expected"),
    [((2, 1, 1), 0, 2, 1 / 2), ((2, 1, 1), 0, 3, 2 / 3), ((2, 1, 1), 1, 2, 1 / 4), ((2, 2, 1), 0, 5, 1 / 2)],
)
def test_majority_vectors_are_reproduced(counts, right, k, expected):
    rewards = [float(index == right) for index in range(len(counts))]
    assert majority_values(counts, rewards, [k]) == pytest.approx([expected], abs=1e-15)


@settings(max_examples=80, deadline=None)
@given(
    counts=st.lists(st.integers(1, 4), max_size=5).filter(lambda counts: sum(counts) <= 9),
    num_silent=st.integers(0, 3),
    data=st.data(),
)
def test_majority_equals_the_enumeration_of_subsets(counts, num_silent, data):
    num_samples = sum(counts) + num_silent
    rewards = data.draw(st.lists(st.integers(-1, 2), min_size=len(counts), max_size=len(counts)))
    ks = range(1, num_samples + 1)
    exact = [float(slow_majority(counts, rewards, k, num_silent)) for k in ks]
    if num_samples:
        assert majority_values(counts, rewards, ks, num_silent=num_silent) == pytest.approx(exact, abs=1e-13)


@pytest.mark.parametrize("seed", range(3))
def test_majority_of_many_answers_equals_exact_integers(seed):
    generator = np.random.default_rng(seed)
    drawn = generator.choice(100, 116, p=generator.dirichlet(np.full(100, 0.5)))
    counts = [int(count) for count in np.bincount(drawn) if count]
    right = [0, 3, len(counts) - 1]
    rewards = [float(index in right) for index in range(len(counts))]
    for k in (1, 2, 8, 32, 100):
        exact = float(sum(exact_win(counts, index, k, num_silent=12) for index in right))
        assert majority_values(counts, rewards, [k, 5], num_silent=12)[0] == pytest.approx(exact, abs=1e-13)


def test_majority_of_thousands_of_samples_does_not_overflow():
    counts = [1500, 1400, 700, 400, 96]
    exact = float(exact_win(counts, 1, 64))
    assert majority_values(counts, [0, 1, 0, 0, 0], [64, 1]) == pytest.approx([exact, 1400 / 4096], abs=1e-12)


@pytest.mark.parametrize("counts", [(2058, 2038), (1000, 1000), (750, 750)])
def test_majority_of_two_answers_of_thousands_is_exact_for_small_and_large_k(counts):
    right, wrong = counts
    n = right + wrong
    ks = [1, 2, 64, n - 16, n - 1, n]

    def exact(k: int) -> Fraction:
        ways = {v: math.comb(right, v) * math.comb(wrong, k - v) for v in range((k + 1) // 2, k + 1)}
        return Fraction(sum(way * (2 if 2 * v > k else 1) for v, way in ways.items()), 2 * math.comb(n, k))

    expected = [float(exact(k)) for k in ks]
    assert majority_values(counts, [1.0, 0.0], ks) == pytest.approx(expected, abs=1e-12)
    alone = [majority_values(counts, [1.0, 0.0], [k])[0] for k in ks]
    assert alone == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("counts", "num_silent"), [((1366, 1366, 1364), 0), ((700, 2, 700, 700, 699), 1295)])
def test_majority_of_nearly_all_of_4096_samples_is_exact(counts, num_silent):
    """By the samples that are left out."""
    groups, n = [*counts, num_silent], 4096
    for num_left_out in (0, 1, 2):
        expected = Fraction(0)
        for left_out in itertools.product(range(num_left_out + 1), repeat=len(groups)):
            if sum(left_out) == num_left_out:
                votes = [count - out for count, out in zip(counts, left_out, strict=False)]
                ways = math.prod(math.comb(count, out) for count, out in zip(groups, left_out, strict=True))
                expected += Fraction(ways * (votes[0] == max(votes)), votes.count(max(votes)))
        expected /= math.comb(n, num_left_out)
        rewards = [float(index == 0) for index in range(len(counts))]
        value = majority_values(counts, rewards, [n - num_left_out], num_silent=num_silent)
        assert value == pytest.approx([float(expected)], abs=1e-12)


def test_winning_probabilities_of_all_answers_sum_to_one():
    counts, ks = [20, 17, 9, 5, 5, 3, 2, 1, 1, 1], [1, 2, 7, 32, 63, 64]
    assert majority_values(counts, [1.0] * len(counts), ks) == pytest.approx([1.0] * len(ks), abs=1e-13)


def test_majority_is_unbiased_for_the_population():
    """The third outcome says nothing: it costs a draw and has no vote."""
    policy, n, k = (0.5, 0.3, 0.2), 5, 3

    def expectation(size, statistic):
        tuples = itertools.product(range(3), repeat=size)
        return sum(
            math.prod(policy[y] for y in ys) * statistic([ys.count(a) for a in range(3)]) for ys in tuples
        )

    def estimate(counts):
        answers = [(count, reward) for count, reward in zip(counts[:2], (0.0, 1.0), strict=True) if count]
        return majority_values(*zip(*answers, strict=True), [k], num_silent=counts[2])[0] if answers else 0.0

    population = expectation(
        k, lambda votes: 0.0 if votes[1] < max(votes[0], 1) else 0.5 + 0.5 * (votes[1] > votes[0])
    )
    assert expectation(n, estimate) == pytest.approx(population, abs=1e-14)


def test_an_answer_judged_in_two_ways_wins_its_mean_reward():
    assert majority_values([4, 1], [0.25, 0.0], [5]) == pytest.approx([0.25])


def test_without_a_rewarded_answer_majority_is_zero_and_beyond_the_samples_missing():
    assert majority_values([3, 2], [0, 0], [4, 6]).tolist()[0] == 0.0
    assert majority_values([], [], [2], num_silent=3).tolist() == [0.0]
    assert np.isnan(majority_values([3, 2], [1, 0], [4, 6])).tolist() == [False, True]
    assert np.isnan(majority_values([], [], [1])).all()
    assert np.isnan(majority_values(np.array([3, 2]), [1, 0], [6])).all()
    assert majority_values(np.array([3, 0]), [0, 1], [2]).tolist() == [0.0]
    with pytest.raises(ValueError, match="k = 0 is not positive"):
        majority_values([3, 2], [1, 0], [0, 1])

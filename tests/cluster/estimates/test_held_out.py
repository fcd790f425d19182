"""Estimates by name are exact means over all subsets; differences are paired; the best is the first of the highest."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cluster.estimates.held_out import differences_of, estimates_of, values_of
from cluster.estimates.standing import Standing
from tests.shared.judgements import judged


def random_judgements(seed, num_problems=7, n=6):
    rng = np.random.default_rng(seed)
    return {
        int(index): judged(
            rng.integers(0, 2, n),
            rng.integers(0, 3, n),
            [rng.choice(["a", "b"]) for _ in range(n)],
        )
        for index in rng.permutation(20)[:num_problems]
    }


def by_enumeration(judgement, k):
    """pass@k and best_of@k of one problem: the mean over all k-subsets."""
    subsets = list(itertools.combinations(range(len(judgement.rewards)), k))
    best = []
    for subset in subsets:
        scores = judgement.scores[list(subset)]
        best.append(judgement.rewards[list(subset)][scores == scores.max()].mean())
    return np.mean([judgement.rewards[list(s)].max() for s in subsets]), np.mean(best)


@pytest.mark.parametrize("k", [1, 2, 4, 6])
def test_estimates_are_means_over_problems_of_the_means_over_all_subsets(k):
    judgements = random_judgements(0)
    found = estimates_of(values_of(judgements, [k]), seed=3)
    passes, best = zip(*(by_enumeration(one, k) for one in judgements.values()), strict=True)
    assert set(found) == {f"pass@{k}", f"best_of@{k}", f"majority@{k}", "reward"}
    assert found[f"pass@{k}"].mean == pytest.approx(np.mean(passes), abs=1e-12)
    assert found[f"best_of@{k}"].mean == pytest.approx(np.mean(best), abs=1e-12)
    assert found["reward"].mean == pytest.approx(np.mean([one.rewards.mean() for one in judgements.values()]))
    for estimate in found.values():
        assert estimate.low <= estimate.mean <= estimate.high


def test_one_sample_is_worth_the_mean_reward_with_the_same_interval():
    found = estimates_of(values_of(random_judgements(1), [1]), seed=3)
    for end in ("mean", "low", "high"):
        assert getattr(found["pass@1"], end) == pytest.approx(getattr(found["reward"], end), abs=1e-12)


def test_a_difference_is_paired_by_problem():
    """Every problem gained exactly a half: no resample of them can say anything else."""
    base = {index: judged([index % 2, 0, 0, 0]) for index in range(8)}
    ours = {index: judged(one.rewards + 0.5) for index, one in base.items()}
    difference = differences_of(values_of(ours, [1, 4]), values_of(base, [1, 4]), seed=0)
    for name in ("pass@1", "pass@4", "reward"):
        assert difference[name].mean == difference[name].low == difference[name].high == 0.5
    own = estimates_of(values_of(ours, [4]), seed=0)["pass@4"]
    assert own.low < own.mean < own.high


def test_only_problems_that_both_have_are_compared_and_only_as_many_samples():
    base = {0: judged([0, 0]), 1: judged([1, 1])}
    ours = {1: judged([1, 0, 0, 0]), 2: judged([1, 1, 1, 1])}
    found = differences_of(values_of(ours, [1, 2, 4]), values_of(base, [1, 2, 4]), seed=0)
    assert set(found) == {"pass@1", "best_of@1", "pass@2", "best_of@2", "reward"}
    assert found["pass@1"].mean == -0.75 and found["pass@2"].mean == -0.5
    assert differences_of(values_of(ours, [1]), values_of({7: judged([1])}, [1]), seed=0) == {}


def test_majority_is_missing_where_no_sample_has_an_answer():
    with_answers, without = {0: judged([1, 0], answers=["a", "b"])}, {0: judged([1, 0])}
    assert "majority@1" in estimates_of(values_of(with_answers, [1]), seed=0)
    assert "majority@1" not in estimates_of(values_of(without, [1]), seed=0)
    assert "majority@1" not in differences_of(values_of(with_answers, [1]), values_of(without, [1]), seed=0)


def test_the_best_is_the_first_of_the_highest_and_what_comes_after_it_is_counted():
    standing = Standing()
    values = {1: 0.2, 2: 0.1, 3: 0.5, 4: 0.5, 5: None, 6: 0.4, 7: 0.6}
    assert [step for step, value in values.items() if standing.add(step, value)] == [1, 3, 7]
    assert (standing.step, standing.value, standing.num_since) == (7, 0.6, 0)
    standing.add(8, 0.6)
    standing.add(9, None)
    assert (standing.step, standing.num_since) == (7, 2)


def test_before_anything_could_be_estimated_nothing_is_worse():
    standing = Standing()
    standing.add(1, None)
    assert (standing.step, standing.num_since) == (None, 0)

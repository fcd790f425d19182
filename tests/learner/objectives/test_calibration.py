"""Ranks against the base policy: win rates, exactly, and unbiased gradients of them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from learner.objectives.calibration import (
    base_scores_of,
    calibrate,
    rank_vs_base,
    read_base_scores,
    write_base_scores,
)
from learner.objectives.config import ObjectiveConfig
from learner.objectives.estimators import bon_value
from learner.objectives.table import OBJECTIVES
from tests.shared.toy_policy import (
    Toy,
    assert_close,
    best_of,
    exact_gradient,
    expectation,
    groups,
    row,
)

NAN, INF = math.nan, math.inf
TOY = Toy(logits=(0.2, -0.5, 0.4, 0.0), rewards=(9.0, 9.0, 9.0, 9.0), scores=(-3.0, 0.5, 0.5, 40.0))
BASE = (0.4, 0.1, 0.2, 0.3)
"""The base policy's probabilities of the same outcomes."""


def win_rates() -> tuple[float, ...]:
    """P(an outcome beats one of the base), ties by half, from the base's probabilities."""
    return tuple(
        sum(p * ((z < y) + (z == y) / 2) for p, z in zip(BASE, TOY.scores, strict=True)) for y in TOY.scores
    )


def test_a_rank_is_the_share_of_base_samples_beaten_with_ties_by_half():
    ranks = rank_vs_base(row([2.0, 1.0, 0.0, 3.0, 9.0]), row([3.0, 1.0, 1.0, 2.0]))
    assert ranks.tolist() == [[2.5 / 4, 1 / 4, 0.0, 3.5 / 4, 1.0]]
    hostile = rank_vs_base(row([NAN, -INF, INF, 0.0]), row([INF, NAN]))
    assert hostile.tolist() == [[0.25, 0.25, 0.75, 0.5]]


def test_ranks_do_not_know_the_scale_that_a_reward_model_has_on_a_prompt():
    generator = torch.Generator().manual_seed(0)
    scores_BN, base_BM = torch.randn(5, 8, generator=generator), torch.randn(5, 6, generator=generator)
    offset_B1, scale_B1 = torch.randn(5, 1, generator=generator), torch.rand(5, 1, generator=generator) + 0.5
    other = rank_vs_base(offset_B1 + scale_B1 * scores_BN.exp(), offset_B1 + scale_B1 * base_BM.exp())
    assert other.equal(rank_vs_base(scores_BN, base_BM))


@pytest.mark.parametrize("num_base", [1, 3])
def test_the_mean_over_base_samples_is_the_win_rate(num_base):
    total = torch.zeros(1, 4, dtype=torch.float64)
    for ys in itertools.product(range(4), repeat=num_base):
        probability = math.prod(BASE[y] for y in ys)
        total += probability * rank_vs_base(row(TOY.scores), row([TOY.scores[y] for y in ys]))
    assert_close(total, [win_rates()])


@pytest.mark.parametrize(
    "config", [ObjectiveConfig(num_select=2), ObjectiveConfig(name="rloo")], ids=["bon", "rloo"]
)
def test_gradients_follow_the_win_rate_of_the_selected_sample_whatever_the_rewards_were(config):
    """Over the groups and over the base samples: two of them are drawn once, before training."""
    total = torch.zeros(4, dtype=torch.float64)
    for ys in itertools.product(range(4), repeat=2):
        base = row([TOY.scores[y] for y in ys])

        def weigh(ys_BN, base=base):
            drawn = groups(row(TOY.rewards)[0][ys_BN], row(TOY.scores)[0][ys_BN])
            return OBJECTIVES[config.name].weights(calibrate(drawn, base.expand(len(ys_BN), -1)), config)

        total += math.prod(BASE[y] for y in ys) * expectation(TOY, 3, weigh)
    num_select = config.num_selected
    assert_close(total, exact_gradient(TOY, best_of(num_select, TOY.scores, win_rates())).tolist())


def test_an_untrained_policy_wins_half_of_the_time():
    base = Toy(logits=tuple(map(math.log, BASE)), rewards=TOY.rewards, scores=TOY.scores)
    assert float(base.policy @ row(win_rates())[0]) == pytest.approx(0.5)
    ranks = rank_vs_base(row(TOY.scores), row(TOY.scores))
    assert float(bon_value(row(TOY.scores), ranks, 1)) == pytest.approx(0.5)


def test_base_scores_are_kept_as_they_are(tmp_path):
    path = tmp_path / "base_scores.parquet"
    write_base_scores(path, {"b": [1.0, -INF, 0.1], "a": [0.0, 2.0, INF]})
    scores = read_base_scores(path)
    assert base_scores_of(["a", "b", "a"], scores).tolist() == [
        [0.0, 2.0, INF],
        [1.0, -INF, 0.1],
        [0.0, 2.0, INF],
    ]
    with pytest.raises(ValueError, match="problem 'c' has no base scores"):
        base_scores_of(["a", "c"], scores)


def test_base_scores_that_are_missing_damaged_or_uneven_are_refused_in_one_line(tmp_path):
    damaged, uneven = tmp_path / "damaged.parquet", tmp_path / "uneven.parquet"
    damaged.write_bytes(b"PAR1 but no more")
    write_base_scores(uneven, {"a": [1.0], "b": [1.0, 2.0]})
    for path in (tmp_path / "none.parquet", damaged, uneven):
        with pytest.raises(ValueError, match="have .* drawn") as refused:
            read_base_scores(path)
        assert str(path) in str(refused.value) and "\n" not in str(refused.value)

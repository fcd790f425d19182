"""Ranks against the base policy: win rates, exactly, and unbiased gradients of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from learner.objectives.calibration import (
    base_scores_of,
    calibrate,
    rank_vs_base,
    read_base_scores,
)
from learner.objectives.config import ObjectiveConfig
from learner.objectives.estimators import bon_value
from learner.objectives.table import OBJECTIVES
from tests.shared.learners import write_base_scores
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


def win_rates(toy: Toy = TOY) -> tuple[float, ...]:
    """P(an outcome beats one of the base), ties by half, from the base's probabilities."""
    return tuple(
        sum(p * ((z < y) + (z == y) / 2) for p, z in zip(BASE, toy.scores, strict=True)) for y in toy.scores
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


SCALES = ((1.0, 0.0, 3.0, 2.0), (0.1, 0.0, 0.3, 0.2), (-50.0, 100.0, -200.0, 0.0))
"""Scores of the same outcomes on three prompts, which one policy answers alike; the last one's scale is the largest."""


def mean_win_rate(policy: torch.Tensor) -> torch.Tensor:
    """Of the best of two samples, over the prompts, exactly."""
    values = [best_of(2, toy.scores, win_rates(toy))(policy) for toy in prompts((0.0,) * 4)]
    return torch.stack(values).mean()


def prompts(logits: Sequence[float]) -> list[Toy]:
    return [Toy(logits=tuple(logits), rewards=scores, scores=scores) for scores in SCALES]


@pytest.mark.parametrize("transform", ["rank_vs_base", "none"])
def test_training_on_ranks_ends_at_the_highest_win_rate_and_on_scores_of_many_scales_far_below(transform):
    """Gradient ascent with the expectation of the weights of `bon`, over all groups of 3 and every base sample."""
    config = ObjectiveConfig(num_select=2)
    logits, reached = torch.zeros(4, dtype=torch.float64), []
    for _ in range(30):
        gradient = torch.zeros(4, dtype=torch.float64)
        for toy in prompts(logits.tolist()):
            scores = row(toy.scores)[0]

            def weigh(ys_BN, scores=scores):
                drawn = groups(scores[ys_BN])
                if transform == "none":
                    return OBJECTIVES["bon"].weights(drawn, config)
                return sum(
                    p * OBJECTIVES["bon"].weights(calibrate(drawn, score.expand(len(ys_BN), 1)), config)
                    for p, score in zip(BASE, scores, strict=True)
                )

            gradient += expectation(toy, 3, weigh) / len(SCALES)
        if transform == "rank_vs_base":
            policy = logits.clone().requires_grad_()
            assert_close(gradient, torch.autograd.grad(mean_win_rate(policy.softmax(0)), policy)[0].tolist())
        logits = logits + gradient / gradient.norm().clamp_min(0.05)
        reached.append(float(mean_win_rate(logits.softmax(0))))
    mixtures = torch.cartesian_prod(*[torch.linspace(0, 1, 11, dtype=torch.float64)] * 3)
    mixtures = torch.cat([mixtures, 1 - mixtures.sum(dim=1, keepdim=True)], dim=1)
    highest = max(float(mean_win_rate(policy)) for policy in mixtures[mixtures[:, 3] > -1e-9])
    if transform == "rank_vs_base":
        assert reached == sorted(reached) and reached[-1] > highest - 1e-3
    else:
        assert reached[-1] < highest - 0.3


def test_base_scores_are_read_as_they_are(tmp_path):
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
    damaged, uneven, other = (tmp_path / name for name in ("damaged.parquet", "uneven.parquet", "o.parquet"))
    damaged.write_bytes(b"PAR1 but no more")
    write_base_scores(uneven, {"a": [1.0], "b": [1.0, 2.0]})
    pq.write_table(pa.table({"problem_id": ["a"], "score": [1.0]}), other)
    remedies = dict.fromkeys((damaged, uneven, other), "delete the file, and .* drawn")
    for path, remedy in {tmp_path / "none.parquet": "a path .* that all machines have", **remedies}.items():
        with pytest.raises(ValueError, match=remedy) as refused:
            read_base_scores(path)
        assert str(path) in str(refused.value) and "\n" not in str(refused.value)

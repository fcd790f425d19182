"""BoN-SFT: exact vectors, slow transcriptions, and autograd of the tilted policies by full enumeration."""

from __future__ import annotations

import math

import pytest
import torch

from learner.objectives.config import ObjectiveConfig
from learner.objectives.estimators import tilt_lambda
from learner.objectives.imitation import published_weights
from tests.shared.toy_policy import Toy, assert_close, exact_gradient, expected_gradient, row, weigh

NAN, INF = math.nan, math.inf
TOY = Toy(logits=(0.2, -0.5, 0.4), rewards=(0.0, 0.0, 0.0), scores=(3.0, 1.0, 2.0))
TIED = Toy(logits=(0.2, -0.5, 0.4, 1.0), rewards=(0.0,) * 4, scores=(3.0, 1.0, 2.0, 1.0))


def config_of(num_select=4, **settings):
    return ObjectiveConfig(name="bon_sft", num_select=num_select, **settings)


def weigh_scores(config, scores, expert):
    return weigh(config, torch.zeros(torch.tensor(scores).shape), scores, demonstration_scores=expert)


def kappa(x):
    return 0.5 if x == 0 else -1 / math.expm1(-x) - 1 / x


def slow_tie_smoothed(scores, expert, tilt):
    n, weights = len(scores), []
    for i in range(n):
        others = [j for j in range(n) if j != i]
        q = sum(scores[j] == expert for j in others) / (n - 1)
        v = [(r < expert) + kappa(tilt * q) * (r == expert) for r in scores]
        weights.append(tilt / n * (v[i] - sum(v[j] for j in others) / (n - 1)))
    return weights


def slow_published(scores, expert, tilt):
    n = len(scores)
    rank = [sum(scores[j] <= scores[i] for j in range(n) if j != i) / (n - 1) for i in range(n)]
    unnormalised = [math.exp(tilt * (q - 1)) for q in rank]
    omega = [x / sum(unnormalised) for x in unnormalised]
    weights = []
    for i in range(n):
        others = [j for j in range(n) if j != i]
        not_below = sum(unnormalised[j] for j in others if scores[j] >= scores[i])
        share = not_below / sum(unnormalised[j] for j in others)
        weights.append(tilt / n * ((expert >= scores[i]) - share) - (omega[i] - 1 / n))
    return weights


def cdf(policy, scores, score):
    return policy[torch.tensor([s <= score for s in scores])].sum()


def log_tilt(toy, expert, num_select, match="kl"):
    """log pi_N(y*) - log pi(y*) of the tie-smoothed tilt, as a function of the policy."""
    tilt = tilt_lambda(num_select, match=match)

    def value(policy):
        upto = cdf(policy, toy.scores, expert)
        below = policy[torch.tensor([s < expert for s in toy.scores])].sum()
        if expert in toy.scores:
            return (((tilt * upto).exp() - (tilt * below).exp()) / (upto - below)).log()
        return tilt * below

    return value


def log_published_tilt(toy, expert, num_select):
    """l Q(y*) - log Z of the paper's tilt, as a function of the policy."""
    tilt = tilt_lambda(num_select)

    def value(policy):
        ranks = torch.stack([cdf(policy, toy.scores, score) for score in toy.scores])
        return tilt * cdf(policy, toy.scores, expert) - (policy @ (tilt * ranks).exp()).log()

    return value


def relative_error(actual, exact):
    return float((actual - exact).norm() / exact.norm())


def test_sft_gives_samples_no_weight_and_needs_no_score_of_the_demonstration():
    assert torch.all(weigh(ObjectiveConfig(name="sft"), [[1.0, 0.0]]) == 0)


def test_the_exact_vectors_are_reproduced():
    weights_BN = weigh_scores(config_of(), [[3.0, 2.0, 1.0, 0.0]], [1.5])
    assert_close(weights_BN * 6 / tilt_lambda(4), [[-1, -1, 1, 1]])
    published_BN = published_weights(row([1.0, 0.0]), row([0.5]), math.log(2))
    assert_close(published_BN, [[-1 / 6, 1 / 6]])


def test_an_expert_that_ties_is_worth_kappa():
    tilt = tilt_lambda(4)
    weights_BN = weigh_scores(config_of(), [[1.0, 0.0]], [1.0])
    assert_close(weights_BN, [[tilt / 2 * (1 / 2 - 1), tilt / 2 * (1 - kappa(tilt))]])


@pytest.mark.parametrize("num_select", [2, 16])
@pytest.mark.parametrize(("name", "slow"), [("tie_smoothed", slow_tie_smoothed), ("paper", slow_published)])
def test_weights_equal_the_slow_transcription_of_the_formula(name, slow, num_select):
    random = torch.Generator().manual_seed(0)
    scores_BN = torch.randint(5, (40, 6), generator=random).double()
    expert_B = torch.randint(10, (40,), generator=random).double() / 2
    config = config_of(num_select, tilt=name, tilt_match="moment", sample_weight=0.7)
    tilt = tilt_lambda(num_select, match="moment")
    rows = [
        [0.7 * w for w in slow(scores, expert, tilt)]
        for scores, expert in zip(scores_BN.tolist(), expert_B.tolist(), strict=True)
    ]
    assert_close(weigh_scores(config, scores_BN.tolist(), expert_B), rows, tolerance=1e-12)


@pytest.mark.parametrize("match", ["kl", "moment"])
@pytest.mark.parametrize("num_select", [2, 8])
@pytest.mark.parametrize("expert", [0.5, 1.5, 2.5, 3.5])
def test_tie_smoothed_is_exactly_unbiased_where_no_sample_ties_with_the_expert(expert, num_select, match):
    for toy in (TOY, TIED):
        exact = exact_gradient(toy, log_tilt(toy, expert, num_select, match))
        for n in (2, 4):
            actual = expected_gradient(toy, n, config_of(num_select, tilt_match=match), expert)
            assert_close(actual, exact)


@pytest.mark.parametrize(
    ("num_select", "expert", "documented"),
    [(4, 1.0, 0.017), (4, 3.0, 0.013), (16, 1.0, 0.047), (16, 3.0, 0.28), (32, 3.0, 0.98)],
)
def test_tie_smoothed_is_biased_like_one_over_n_where_samples_tie_with_the_expert(
    num_select, expert, documented
):
    exact = exact_gradient(TIED, log_tilt(TIED, expert, num_select))
    of_four, of_eight = (
        relative_error(expected_gradient(TIED, n, config_of(num_select), expert), exact) for n in (4, 8)
    )
    assert of_four == pytest.approx(documented, rel=0.03)
    assert of_eight < 0.55 * of_four


@pytest.mark.parametrize(
    ("num_select", "expert", "documented"),
    [(2, 1.0, 0.05), (4, 2.0, 0.074), (4, 3.0, 0.40), (32, 2.0, 0.041)],
)
def test_the_papers_tilt_is_biased_like_one_over_n_ties_or_not(num_select, expert, documented):
    exact = exact_gradient(TOY, log_published_tilt(TOY, expert, num_select))
    config = config_of(num_select, tilt="paper")
    of_four, of_eight = (relative_error(expected_gradient(TOY, n, config, expert), exact) for n in (4, 8))
    assert of_eight == pytest.approx(documented, rel=0.03)
    assert of_eight < 0.55 * of_four


@pytest.mark.parametrize("tilt", ["tie_smoothed", "paper"])
def test_best_of_one_is_plain_sft(tilt):
    weights_BN = weigh_scores(config_of(1, tilt=tilt), [[3.0, 2.0, 1.0, 0.0]] * 2, [1.5, 2.0])
    assert_close(weights_BN, [[0.0] * 4] * 2, tolerance=1e-16)


def test_sample_weight_multiplies_the_samples_and_zero_is_sft():
    scores, expert = [[3.0, 2.0, 1.0, 0.0]], [1.5]
    full_BN = weigh_scores(config_of(), scores, expert)
    assert_close(weigh_scores(config_of(sample_weight=0.25), scores, expert), (0.25 * full_BN).tolist())
    assert torch.all(weigh_scores(config_of(sample_weight=0.0), scores, expert) == 0)


def test_an_expert_outside_the_range_of_the_samples_gives_them_no_weight():
    scores = [[3.0, 2.0, 1.0, 1.0]] * 3
    assert torch.all(weigh_scores(config_of(), scores, [0.0, 4.0, -INF]) == 0)


def test_missing_scores_count_as_the_lowest_and_infinity_as_the_largest_number():
    for name in ("tie_smoothed", "paper"):
        config = config_of(tilt=name)
        plain = weigh_scores(config, [[0.0, 2.0, 1.0, 0.0], [0.0, 2.0, 1.0, 0.0]], [1.5, 0.0])
        hostile = weigh_scores(config, [[NAN, 2.0, 1.0, -INF], [NAN, INF, 1.0, -INF]], [1.5, NAN])
        assert_close(hostile, plain.tolist())


@pytest.mark.parametrize("tilt", ["tie_smoothed", "paper"])
def test_all_samples_tied_with_the_expert_weigh_the_same(tilt):
    (weights_N,) = weigh_scores(config_of(tilt=tilt), [[2.0] * 5], [2.0])
    assert_close(weights_N, [0.0] * 5, tolerance=1e-15)


@pytest.mark.parametrize("num_select", [64, 4096])
@pytest.mark.parametrize("tilt", ["tie_smoothed", "paper"])
def test_a_strong_tilt_does_not_overflow_nor_cancel(tilt, num_select):
    weights_BN = weigh_scores(config_of(num_select, tilt=tilt), [[1.0, 0.0], [1.0, 1.0]], [1.0, 0.5])
    assert torch.all(weights_BN.isfinite())
    if tilt == "paper":
        strength = tilt_lambda(num_select)
        # The better one holds all of the tilt: it beats itself not at all, the other one is beaten by it.
        assert_close(weights_BN[0], [strength / 2 - 0.5, 0.5], tolerance=1e-9)


def test_samples_that_the_expert_beats_are_pushed_up_and_the_others_down():
    (weights_N,) = weigh_scores(config_of(16), [[3.0, 2.0, 1.0, 0.0]], [1.5])
    assert torch.all(weights_N[:2] < 0) and torch.all(weights_N[2:] > 0)
    assert float(weights_N.abs().sum()) == pytest.approx(4 * tilt_lambda(16) / 6)

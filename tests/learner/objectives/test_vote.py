"""The objective majority: unbiased by enumeration, its weights those of the sum over subsets, also where they are large."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.objectives.config import ObjectiveConfig
from learner.objectives.groups import stack
from learner.objectives.majority import vote_values
from learner.objectives.vote import PROMPTS_AT_ONCE, majority_weights
from learner.objectives.vote_kernel import PRECISION
from tests.shared.tiny_model import make_group
from tests.shared.toy_policy import Toy, assert_close, exact_gradient, expected_gradient, numbered, row, weigh

SILENT = -1
TOYS = {
    "one right answer of two": Toy(logits=(0.2, -0.5), rewards=(1.0, 0.0), scores=(0.0, 0.0), answers=(0, 1)),
    "an answer given in two ways": Toy(
        logits=(0.2, -0.5, 0.4, 0.1), rewards=(1.0, 0.0, 1.0, 0.0), scores=(0.0,) * 4, answers=(5, 6, 5, 7)
    ),
    "samples without an answer": Toy(
        logits=(0.2, -0.5, 0.4, 0.9),
        rewards=(1.0, 0.3, -2.0, 0.0),
        scores=(0.0,) * 4,
        answers=(0, 1, 2, SILENT),
    ),
    "an answer judged in two ways": Toy(
        logits=(0.2, -0.5, 0.4, 0.0),
        rewards=(1.0, 0.25, 0.0, 0.5),
        scores=(0.0,) * 4,
        answers=(0, 0, 1, SILENT),
    ),
}


def vote(answers, rewards) -> float:
    """Reward of the most frequent answer of these samples, ties averaged; 0 without a vote."""
    given_by: dict[int, list[float]] = {}
    for answer, reward in zip(answers, rewards, strict=True):
        if answer != SILENT:
            given_by.setdefault(answer, []).append(reward)
    most = max(map(len, given_by.values()), default=0)
    winners = [sum(of_answer) / most for of_answer in given_by.values() if len(of_answer) == most]
    return sum(winners) / len(winners) if winners else 0.0


def by_subsets(answers, rewards, k) -> list[float]:
    """The definition: what each sample adds to all (k-1)-subsets of the others, times k/n."""
    n = len(answers)
    weights = []
    for i in range(n):
        added = [
            vote([answers[j] for j in (*others, i)], [rewards[j] for j in (*others, i)])
            - vote([answers[j] for j in others], [rewards[j] for j in others])
            for others in itertools.combinations([j for j in range(n) if j != i], k - 1)
        ]
        weights.append(k / n * sum(added) / len(added))
    return weights


def by_values(answers, rewards, k) -> list[float]:
    """The same by majority@k of all samples and of all but one: V_k - (1 - k/n) V_k(others) - (k/n) V_(k-1)(others)."""
    n = len(answers)
    names = [None if answer == SILENT else str(answer) for answer in answers]
    (of_all,) = vote_values(names, rewards, [k])
    weight_of = {}
    for i, sample in enumerate(zip(answers, rewards, strict=True)):
        if sample not in weight_of:
            low, high = vote_values(names[:i] + names[i + 1 :], rewards[:i] + rewards[i + 1 :], [k - 1, k])
            weight_of[sample] = of_all - k / n * low - ((1 - k / n) * high if k < n else 0.0)
    return [weight_of[sample] for sample in zip(answers, rewards, strict=True)]


def assert_precise(answers, rewards, k):
    """The weights are those by values, within the promised share of k / n times the range of the rewards."""
    weights_N = weights_of(answers, rewards, k)
    bound = PRECISION * k / len(answers) * (max(rewards) - min(rewards))
    assert_close(weights_N, by_values(answers, rewards, k), tolerance=bound)


def weights_of(answers, rewards, k):
    answers_BN = numbered(torch.tensor([answers]))
    return majority_weights(answers_BN, torch.tensor([rewards], dtype=torch.float64), k)[0]


@pytest.mark.parametrize("toy", TOYS.values(), ids=list(TOYS))
@pytest.mark.parametrize(("n", "k"), [(2, 1), (2, 2), (4, 1), (4, 2), (4, 3), (4, 4), (5, 3), (6, 4)])
def test_majority_is_unbiased_for_the_vote_of_the_policy(toy, n, k):
    def majority_at_k(policy):
        total = torch.zeros((), dtype=torch.float64)
        for ys in itertools.product(range(len(policy)), repeat=k):
            voted = vote([toy.answers[y] for y in ys], [toy.rewards[y] for y in ys])
            total = total + policy[list(ys)].prod() * voted
        return total

    config = ObjectiveConfig(name="majority", num_select=k)
    assert_close(expected_gradient(toy, n, config), exact_gradient(toy, majority_at_k))


@settings(max_examples=150, deadline=None)
@given(
    samples=st.lists(st.tuples(st.integers(SILENT, 3), st.integers(-1, 2)), min_size=2, max_size=8),
    data=st.data(),
)
def test_weights_are_what_a_sample_adds_to_the_subsets_of_the_others(samples, data):
    k = data.draw(st.integers(2, len(samples)))
    answers, rewards = [answer for answer, _ in samples], [float(reward) for _, reward in samples]
    assert_close(weights_of(answers, rewards, k), by_subsets(answers, rewards, k), tolerance=3 * PRECISION)


@pytest.mark.parametrize("k", [2, 3, 8, 16, 64, 127, 128])
@pytest.mark.parametrize(("num_answers", "concentration"), [(2, 1.0), (4, 1.0), (25, 0.3), (500, 1.0)])
def test_weights_of_128_samples_are_exact_however_many_answers_there_are(k, num_answers, concentration):
    generator = np.random.default_rng(k * num_answers)
    shares = generator.dirichlet(np.full(num_answers, concentration))
    answers = generator.choice(num_answers, 128, p=shares)
    truth = generator.random(num_answers).round(1)  # of each answer
    rewards = truth[answers].tolist()
    answers[generator.random(128) < 0.05] = SILENT
    assert_precise(answers.tolist(), rewards, k)


@pytest.mark.parametrize("each", [1, 2, 4])
def test_weights_are_exact_where_as_many_answers_tie_as_can(each):
    answers = [i // each for i in range(128)]
    rewards = [float(answer < 5) for answer in answers]
    for k in (2, 31, 64, 68, 128):
        assert_precise(answers, rewards, k)


def test_weights_are_exact_where_a_level_of_votes_has_no_probability_in_float64():
    answers = [0] * 380 + [1] * 100 + [2] * 32
    rewards = [0.0] * 380 + [1.0] * 100 + [0.5] * 32
    for k in (256, 511, 512):
        assert_precise(answers, rewards, k)


def test_weights_are_finite_where_a_factor_is_too_small_to_be_divided_out():
    weights_N = weights_of([0] * 376 + list(range(1, 649)), [1.0] * 376 + [0.0] * 648, 649)
    assert torch.all(weights_N.isfinite()) and weights_N[0] >= 0 >= weights_N[-1]


def test_weights_of_rewards_of_any_size_are_as_precise():
    answers = [0] * 30 + [1] * 40 + [2] * 20 + [3] * 38
    rewards = [(1.0, 0.0, 0.5, 0.25)[answer] for answer in answers]
    weights_N = weights_of(answers, rewards, 16)
    for scale in (1e-12, 1e6):
        of_scaled_N = weights_of(answers, [scale * reward for reward in rewards], 16)
        assert_close(of_scaled_N / scale, weights_N, tolerance=1e-13)
    assert_close(weights_of(answers, [1e6 + reward for reward in rewards], 16), weights_N, tolerance=1e-13)


def test_an_answer_judged_unequally_weighs_each_of_its_samples_by_its_own_reward():
    generator = np.random.default_rng(0)
    answers = generator.choice(4, 24).tolist()
    rewards = generator.random(24).round(2).tolist()
    for k in (2, 7, 23, 24):
        expected = by_values(answers, rewards, k)
        assert_close(weights_of(answers, rewards, k), expected, tolerance=1e-11)


def test_weights_by_hand():
    # Of three votes a b b two are drawn, a right: it adds a half to {b}, and so both times. A b that meets a takes
    # a half from it; that it meets b changes nothing.
    assert_close(weights_of([0, 1, 1], [1.0, 0.0, 0.0], 2), [2 / 3 * 1 / 2, -2 / 3 * 1 / 4, -2 / 3 * 1 / 4])
    # All three are drawn: without a, b has won; without a b, there is a tie.
    assert_close(weights_of([0, 1, 1], [1.0, 0.0, 0.0], 3), [0.0, -1 / 2, -1 / 2])


def test_samples_of_one_answer_share_a_weight_and_the_right_one_is_pushed_up():
    answers = [0, 1, 1, 2, 0, 1, 3, SILENT, 0, 4, 1, 2]
    weights_N = weights_of(answers, [float(answer == 0) for answer in answers], 5)
    for answer in set(answers):
        (shared,) = {weight for weight, own in zip(weights_N.tolist(), answers, strict=True) if own == answer}
        assert (shared > 0) == (answer == 0) and (shared < 0) == (answer in (1, 2, 3, 4))


def test_what_cannot_turn_the_vote_weighs_exactly_nothing():
    assert torch.all(weights_of([0, 1, 2, 2, 0, 1], [0.1] * 6, 3) == 0)  # all rewards equal
    assert torch.all(weights_of([SILENT] * 6, [0.0] * 6, 3) == 0)
    weights_N = weights_of([0] * 9 + [1, SILENT], [1.0] * 9 + [0.0, 0.0], 9)
    assert torch.all(weights_N == 0)  # eight others of whom one at most differs
    assert weights_of([0] * 9 + [1, SILENT], [1.0] * 9 + [0.0, 0.0], 2)[0] > 0


def test_the_first_vote_is_worth_its_reward():
    """Of others who are all silent: the sample alone is the vote."""
    assert_close(weights_of([3, SILENT, SILENT], [0.6, 0.0, 0.0], 2), [2 / 3 * 0.6, 0.0, 0.0])


def test_one_vote_is_rloo_with_nothing_for_silence():
    config = ObjectiveConfig(name="majority", num_select=1)
    weights_BN = weigh(config, [[1.0, 0.5, 0.0, 1.0]], answers=[[0, 1, 2, SILENT]])
    assert_close(weights_BN, weigh(ObjectiveConfig(name="rloo"), [[1.0, 0.5, 0.0, 0.0]]).tolist())


def test_a_batch_with_prompts_that_agree_and_prompts_that_are_silent_has_the_weights_of_each_alone():
    answers_BN = torch.tensor([[0, 0, 0, 0], [0, 1, 2, 3], [-1, -1, -1, -1], [0, 0, 1, -1], [0, 1, 1, 1]])
    rewards_BN = torch.tensor(
        [[1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0.0]]
    ).double()
    weights_BN = majority_weights(answers_BN, rewards_BN, 3)
    for answers_N, rewards_N, weights_N in zip(answers_BN, rewards_BN, weights_BN, strict=True):
        assert_close(weights_N, by_subsets(answers_N.tolist(), rewards_N.tolist(), 3), tolerance=PRECISION)


def test_many_prompts_have_the_weights_of_each_alone():
    generator = np.random.default_rng(0)
    answers_BN = numbered(torch.from_numpy(generator.integers(SILENT, 6, (3 * PROMPTS_AT_ONCE + 1, 12))))
    rewards_BN = (answers_BN == 0).double()
    weights_BN = majority_weights(answers_BN, rewards_BN, 5)
    alone = [
        majority_weights(answers_BN[b : b + 1], rewards_BN[b : b + 1], 5) for b in range(len(answers_BN))
    ]
    assert weights_BN.equal(torch.cat(alone)) and len(weights_BN.unique()) > 100


def test_what_compiled_loops_could_not_bear_is_an_error():
    answers_BN, rewards_BN = torch.tensor([[0, 0, 1, -1]]), torch.zeros(1, 4, dtype=torch.float64)
    for answers, rewards, k, says in (
        (answers_BN + 3, rewards_BN, 2, "answer 4 among 4 samples: number answers from 0 to 3"),
        (answers_BN, rewards_BN[:, :3], 2, r"rewards \(1, 3\) of answers \(1, 4\): give each one"),
        (answers_BN, rewards_BN, 5, "num_select = 5 of 4 samples: choose it from 1 to 4"),
        (answers_BN, rewards_BN, 0, "num_select = 0 of 4 samples: choose it from 1 to 4"),
    ):
        with pytest.raises(ValueError, match=says):
            majority_weights(answers, rewards, k)


def test_numbers_of_other_types_have_the_same_weights():
    answers_BN, rewards_BN = torch.tensor([[0, 0, 1, -1, 2, 1]]), torch.tensor([[1, 1, 0, 0, 2, 0]])
    weights_BN = majority_weights(answers_BN, rewards_BN.double(), 3)
    of_others_BN = majority_weights(answers_BN.int(), rewards_BN.T.contiguous().T.float(), 3)
    assert torch.any(weights_BN != 0) and of_others_BN.equal(weights_BN)
    assert majority_weights(answers_BN, rewards_BN, 3).equal(weights_BN)


def test_a_weight_that_is_only_rounding_is_exactly_nothing():
    """That 80 of 128 give at most 20 of 63 votes has a probability of about 1e-12."""
    weights_N = weights_of([0] * 80 + [1] * 20 + [SILENT] * 28, [0.0] * 80 + [1.0] * 20 + [0.0] * 28, 64)
    assert torch.all(weights_N == 0)


def test_answers_are_numbered_within_their_prompt_and_none_is_no_answer():
    first = replace(make_group(0, samples=4), answers=("b", None, "a", "b"))
    second = replace(make_group(1, samples=4), answers=("a", "a", "c", "b"))
    assert stack([first, second], []).answers_BN.tolist() == [[0, -1, 1, 0], [0, 0, 1, 2]]


def test_the_vote_goes_by_answers_and_neither_by_scores_nor_by_texts():
    config = ObjectiveConfig(name="majority", num_select=3)
    rewards, answers = [[1.0, 1.0, 0.0, 0.0]], [[4, 4, 9, 8]]
    weights_BN = weigh(config, rewards, answers=answers)
    assert weigh(config, rewards, scores=[[math.nan, -1.0, 7.0, 2.0]], answers=answers).equal(weights_BN)
    assert not torch.allclose(weigh(config, rewards, answers=[[4, 5, 9, 8]]), weights_BN)
    assert row(by_subsets([4, 4, 9, 8], rewards[0], 3)).sub(weights_BN).abs().max() < 1e-14

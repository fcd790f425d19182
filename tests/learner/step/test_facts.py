"""What a batch says of the policy that was sampled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from actors.types import ScoredGroup
from learner.objectives.config import ObjectiveConfig
from learner.step.facts import batch_facts, win_rates
from tests.shared.tiny_model import make_group


def test_the_facts_of_a_batch_are_those_of_its_groups():
    groups = [
        make_group(0, samples=3, lengths=(2, 2), version=4, rewards=np.array([1.0, 0.0, 0.0])),
        make_group(1, samples=3, lengths=(5, 5), version=6, rewards=np.array([0.0, 0.0, 0.0])),
    ]
    facts = batch_facts(groups, ObjectiveConfig(num_select=2), version=6)
    assert facts["reward"] == pytest.approx(1 / 6)
    # The right one is among 2 of 3 with probability 2/3, in one of the two groups.
    assert facts["bon"] == facts["pass_at_n"] == pytest.approx(1 / 3)
    assert (facts["staleness_mean"], facts["staleness_max"]) == (1.0, 2.0)
    assert (facts["completion_tokens"], facts["tokens"], facts["sequences"]) == (3.5, 21.0, 6.0)
    assert (facts["unfinished"], facts["wrong_format"]) == (0.0, 0.0)


def test_a_verifier_that_misleads_shows_in_best_of_n_and_not_in_pass_at_n():
    group = make_group(0, samples=2, rewards=np.array([1.0, 0.0]))
    misled = ScoredGroup(
        samples=group.samples,
        scores=np.array([-np.inf, 3.0]),
        rewards=group.rewards,
        statuses=("wrong_format", "ok"),
        answers=group.answers,
        latencies_s=group.latencies_s,
    )
    facts = batch_facts([misled], ObjectiveConfig(num_select=2), version=0)
    assert (facts["bon"], facts["pass_at_n"]) == (0.0, 1.0)
    assert (facts["score"], facts["wrong_format"]) == (3.0, 0.5)


def test_the_vote_is_estimated_at_the_step_s_n_and_only_where_it_is_trained_for():
    group = make_group(0, samples=4, rewards=np.array([1.0, 1.0, 0.0, 0.0]))
    answered = replace(group, answers=("7", "7", "8", None))
    schedule = ObjectiveConfig(name="majority", num_select={"from": 3, "to": 1, "over": 2})
    facts = [batch_facts([answered], schedule.at(step), version=0) for step in (0, 1, 2)]
    assert [fact["num_select"] for fact in facts] == [3, 2, 1]
    # Of three the two right ones win, or tie with nobody: all but {7, 8, None}, a tie, in 2 of 4 triples.
    assert [fact["majority_at_n"] for fact in facts] == pytest.approx([3 / 4, 4 / 6, 1 / 2])
    assert [fact["pass_at_n"] for fact in facts] == pytest.approx([1.0, 5 / 6, 1 / 2])
    assert "majority_at_n" not in batch_facts([answered], ObjectiveConfig(num_select=2), version=0)


def test_win_rates_are_the_mean_rank_and_that_of_the_best_of_n_by_score():
    groups = [
        make_group(0, samples=3, rewards=np.array([5.0, 1.0, 3.0])),
        make_group(1, samples=3, rewards=np.array([-7.0, -7.0, -9.0])),
    ]
    base = {"problem-1": [-8.0, -7.0], "problem-0": [4.0, 2.0]}
    scores = {name: torch.tensor(of_problem, dtype=torch.float64) for name, of_problem in base.items()}
    # Ranks are 1, 0, 1/2 and 3/4, 3/4, 0; the best of two has 1, 1, 1/2 and 3/4 three times.
    facts = win_rates(groups, ObjectiveConfig(num_select=2, score_transform="rank_vs_base"), scores)
    assert facts == pytest.approx({"win_rate": 0.5, "bon_win_rate": (2.5 / 3 + 3 / 4) / 2})

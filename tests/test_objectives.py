"""Objectives: exact weights, the gradient of the loss they promise, and a config that refuses the void."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import get_args

import pytest
import torch
from pydantic import ValidationError

from learner.estimators import bon_weights
from learner.objective_config import ObjectiveConfig
from learner.objectives import OBJECTIVES

SCORES_BN = torch.tensor([[3.0, 1.0, 2.0, 0.0], [2.0, 1.0, 2.0, 0.0]])
REWARDS_BN = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0]])


def assert_close(actual, expected, tolerance=1e-13):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=tolerance)


def test_the_table_has_exactly_the_names_a_config_may_give():
    assert set(OBJECTIVES) == set(get_args(ObjectiveConfig.model_fields["name"].annotation))


def test_rloo_sets_each_sample_against_the_mean_of_the_others_and_ignores_scores():
    rewards_BN = torch.rand(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.zeros(5, 6, dtype=torch.float64)
    for b, i in itertools.product(range(5), range(6)):
        others = [rewards_BN[b, j].item() for j in range(6) if j != i]
        expected[b, i] = (rewards_BN[b, i].item() - sum(others) / 5) / 6
    for scores_BN in (torch.zeros(5, 6), rewards_BN, torch.full((5, 6), float("nan"))):
        assert_close(OBJECTIVES["rloo"](scores_BN, rewards_BN, ObjectiveConfig(name="rloo")), expected)
    weights_BN = OBJECTIVES["rloo"](SCORES_BN, REWARDS_BN, ObjectiveConfig(name="rloo"))
    assert_close(weights_BN, [[1 / 6, -1 / 6, -1 / 6, 1 / 6]] * 2)


def test_bon_weights_are_those_of_its_settings():
    by_default = OBJECTIVES["bon"](SCORES_BN, REWARDS_BN, ObjectiveConfig(num_select=2))
    assert_close(by_default, [[1 / 3, -1 / 6, -1 / 6, 0], [1 / 4, -1 / 6, -1 / 4, 0]])
    raw = OBJECTIVES["bon"](SCORES_BN, REWARDS_BN, ObjectiveConfig(num_select=2, baseline="none"))
    assert_close(raw, [[1 / 2, 1 / 6, 1 / 6, 1 / 6], [5 / 12, 1 / 6, 1 / 12, 1 / 6]])
    loo = OBJECTIVES["bon"](SCORES_BN, REWARDS_BN, ObjectiveConfig(num_select=2, baseline="loo"))
    assert_close(loo, [[1 / 2, -1 / 6, -1 / 6, -1 / 6], [5 / 12, -1 / 12, -1 / 4, -1 / 12]])
    other = OBJECTIVES["bon"](SCORES_BN, REWARDS_BN, ObjectiveConfig(num_select=2, baseline_k=3))
    assert other.equal(bon_weights(SCORES_BN, REWARDS_BN, 2, baseline_k=3))
    assert by_default.dtype == raw.dtype == torch.float64


def test_bon_of_one_is_rloo():
    config = ObjectiveConfig(num_select=1)
    rloo = OBJECTIVES["rloo"](SCORES_BN, REWARDS_BN, ObjectiveConfig(name="rloo"))
    assert OBJECTIVES["bon"](SCORES_BN, REWARDS_BN, config).equal(rloo)


@pytest.mark.parametrize(
    ("config", "num_select"),
    [
        (ObjectiveConfig(name="rloo"), 1),
        (ObjectiveConfig(num_select=3), 3),
        (ObjectiveConfig(num_select=2, baseline="loo"), 2),
        (ObjectiveConfig(num_select=4, baseline="none"), 4),
        (ObjectiveConfig(num_select=3, baseline_k=1), 3),
    ],
)
def test_the_gradient_of_the_loss_is_that_of_the_estimand_in_expectation(config, num_select):
    outcome_scores, outcome_rewards = torch.tensor([1.0, 2.0, 2.0]), torch.tensor([0.5, 1.0, 0.0])
    logits = torch.tensor([0.2, -0.5, 0.4], dtype=torch.float64, requires_grad=True)
    log_policy = logits.log_softmax(0)

    # J of every tuple of num_select outcomes, the winner drawn uniformly among the best.
    value = torch.zeros((), dtype=torch.float64)
    for ys in itertools.product(range(3), repeat=num_select):
        best = max(outcome_scores[y] for y in ys)
        winners = [outcome_rewards[y].item() for y in ys if outcome_scores[y] == best]
        value = value + log_policy[list(ys)].sum().exp() * sum(winners) / len(winners)
    (exact,) = torch.autograd.grad(value, logits, retain_graph=True)

    # The loss of a batch that holds every group of 4, each counted as often as it is sampled.
    groups_BN = torch.cartesian_prod(*[torch.arange(3)] * 4)
    weights_BN = OBJECTIVES[config.name](outcome_scores[groups_BN], outcome_rewards[groups_BN], config)
    probability_B = log_policy.detach()[groups_BN].sum(1).exp()
    loss = -(probability_B * (weights_BN * log_policy[groups_BN]).sum(1)).sum()
    (actual,) = torch.autograd.grad(loss, logits)
    assert_close(-actual, exact.tolist())


@pytest.mark.parametrize(
    "config",
    [
        ObjectiveConfig(name="rloo"),
        ObjectiveConfig(num_select=1),
        ObjectiveConfig(num_select=1, baseline="none"),
        ObjectiveConfig(num_select=3),
        ObjectiveConfig(num_select=3, baseline="loo"),
        ObjectiveConfig(num_select=3, baseline="none"),
        ObjectiveConfig(num_select=3, baseline_k=4),
        ObjectiveConfig(num_select=3, baseline_k=1),
    ],
)
def test_num_samples_needed_is_where_the_objective_stops_refusing(config):
    enough = torch.rand(2, config.num_samples_needed)
    OBJECTIVES[config.name](enough, enough, config)
    with pytest.raises(ValueError, match="draw more"):
        OBJECTIVES[config.name](enough[:, 1:], enough[:, 1:], config)


def test_defaults_are_best_of_sixteen_with_the_smaller_leave_one_out_baseline():
    config = ObjectiveConfig()
    assert (config.name, config.num_select, config.baseline, config.baseline_k) == ("bon", 16, "loo1", None)
    assert config.num_samples_needed == 16


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"name": "rloo", "num_select": 8},
            "num_select = 8 has no effect on the objective 'rloo': remove it",
        ),
        ({"name": "rloo", "num_select": 16}, "num_select = 16 has no effect on the objective 'rloo'"),
        ({"name": "rloo", "baseline_k": 3}, "baseline_k = 3 has no effect on the objective 'rloo'"),
        ({"name": "rloo", "baseline": "loo1"}, "baseline = 'loo1' has no effect on the objective 'rloo'"),
        ({"baseline": "none", "baseline_k": 3}, "baseline = 'none' has no effect when baseline_k = 3 is set"),
        ({"baseline": "loo1", "baseline_k": 3}, "baseline = 'loo1' has no effect when baseline_k = 3 is set"),
    ],
)
def test_a_setting_without_effect_is_refused_with_its_value_and_a_remedy(given, message):
    with pytest.raises(ValidationError) as refused:
        ObjectiveConfig(**given)
    (error,) = refused.value.errors()
    assert message in error["msg"] and "remove" in error["msg"] and "\n" not in error["msg"]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"num_select": 0}, "num_select"),
        ({"baseline_k": 0}, "baseline_k"),
        ({"baseline": "mean"}, "baseline"),
        ({"name": "grpo2"}, "name"),
        ({"num_selected": 4}, "num_selected"),
    ],
)
def test_impossible_values_and_unknown_keys_are_refused_by_name(given, field):
    with pytest.raises(ValidationError) as refused:
        ObjectiveConfig(**given)
    assert [error["loc"] for error in refused.value.errors()] == [(field,)]


@pytest.mark.parametrize(
    "given", [{}, {"name": "rloo"}, {"num_select": 4, "baseline": "loo"}, {"baseline_k": 3}]
)
def test_a_config_that_is_written_reads_back_as_itself(given):
    config = ObjectiveConfig(**given)
    assert ObjectiveConfig.model_validate(config.model_dump()) == config
    assert ObjectiveConfig.model_validate_json(config.model_dump_json()) == config


def test_a_config_cannot_be_changed_and_describes_every_field():
    with pytest.raises(ValidationError):
        ObjectiveConfig().num_select = 3
    assert all(field.description for field in ObjectiveConfig.model_fields.values())


def test_the_config_is_read_without_torch():
    program = "import sys, learner.objective_config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0

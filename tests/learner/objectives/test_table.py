"""The table of objectives and its config: complete, finite, and nothing void is accepted."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import fields
from typing import get_args

import pytest
import torch
from pydantic import ValidationError

from learner.objectives.config import SETTINGS, ObjectiveConfig
from learner.objectives.table import OBJECTIVES, Row
from tests.shared.toy_policy import Toy, exact_gradient, expected_gradient, groups, weigh

NAN, INF = math.nan, math.inf
SELECTS = [name for name, settings in SETTINGS.items() if "num_select" in settings]
EVERY_OBJECTIVE = pytest.mark.parametrize("name", OBJECTIVES)


def config_of(name, num_select=2, **settings):
    return ObjectiveConfig(name=name, **({"num_select": num_select} if name in SELECTS else {}), **settings)


def test_the_tables_have_exactly_the_names_a_config_may_give():
    names = list(get_args(ObjectiveConfig.model_fields["name"].annotation))
    assert list(OBJECTIVES) == list(SETTINGS) == names


def test_every_row_says_everything_about_the_function_of_its_name():
    for name, row in OBJECTIVES.items():
        assert row.weights.__name__ == name
        for field in fields(Row):
            assert getattr(row, field.name), (name, field.name)
            assert "\n" not in str(getattr(row, field.name))
    assert OBJECTIVES["rloo"].formula == "w_i = (R_i - mean of the other R) / n"
    assert OBJECTIVES["bon"].estimand.startswith("J_N = E[R(y*)]")


@EVERY_OBJECTIVE
def test_weights_are_finite_whatever_the_scores(name):
    hostile = [[NAN, INF, -INF, 0.0], [NAN] * 4, [INF] * 4, [-INF] * 4, [1e308, -1e308, 1e-308, 5.0]]
    for rewards in ([0.0, 1.0, 0.0, 1.0], [0.0] * 4, [1.0] * 4, [1.0, 0.0, 0.0, 0.0]):
        for demonstration_score in (NAN, INF, -INF, 0.0):
            weights_BN = weigh(
                config_of(name), [rewards] * 5, hostile, demonstration_scores=[demonstration_score] * 5
            )
            assert weights_BN.shape == (5, 4) and weights_BN.dtype == torch.float64
            assert torch.all(weights_BN.isfinite())


@EVERY_OBJECTIVE
def test_a_row_does_not_depend_on_the_other_rows_nor_on_the_order_of_samples(name):
    random = torch.Generator().manual_seed(0)
    rewards_BN = (torch.rand(20, 6, generator=random) < 0.4).double()
    scores_BN = torch.randint(3, (20, 6), generator=random).double()
    lengths_BN = torch.randint(1, 9, (20, 6), generator=random)
    expert_B = torch.randint(3, (20,), generator=random).double()
    config = config_of(name, 4)
    together_BN = weigh(config, rewards_BN, scores_BN, lengths_BN, expert_B)
    order_N = torch.randperm(6, generator=random)
    for b in range(20):
        alone = [rewards_BN[b : b + 1], scores_BN[b : b + 1], lengths_BN[b : b + 1]]
        torch.testing.assert_close(
            weigh(config, *[x[:, order_N] for x in alone], expert_B[b : b + 1]),
            together_BN[b : b + 1, order_N],
            rtol=0.0,
            atol=1e-14,
        )


@pytest.mark.parametrize("reward", [NAN, INF, -INF])
def test_a_reward_that_is_not_finite_is_refused_by_name_and_place(reward):
    with pytest.raises(
        ValueError, match=r"rewards\[1, 2\] = (nan|-?inf) is not finite: judge the sample"
    ) as refused:
        groups([[0.0, 1.0, 0.0], [0.0, 1.0, reward]])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["pass_at_k", "bon_rlb", "bon_rlbp", "maxrl", "rft"])
def test_objectives_for_binary_rewards_refuse_any_other_reward(name):
    with pytest.raises(ValueError) as refused:
        weigh(config_of(name), [[0.0, 1.0, 0.5]])
    assert str(refused.value) == (
        f"rewards[0, 2] = 0.5 is neither 0 nor 1, as objective '{name}' needs: use 'max_at_k' or 'bon'"
    )


@pytest.mark.parametrize(
    "config",
    [
        *[config_of(name, 3) for name in OBJECTIVES],
        config_of("bon", 1),
        config_of("bon", 1, baseline="none"),
        config_of("bon", 3, baseline="loo"),
        config_of("pass_at_k", 3, baseline="none"),
        config_of("max_at_k", 3, baseline_k=4),
        config_of("bon", 3, baseline_k=1),
    ],
)
def test_num_samples_needed_is_where_the_objective_stops_refusing(config):
    enough = torch.ones(2, config.num_samples_needed)
    weigh(config, enough, demonstration_scores=[0.0, 0.0])
    if config.num_samples_needed > 1:
        with pytest.raises(ValueError, match="draw more"):
            weigh(config, enough[:, 1:], demonstration_scores=[0.0, 0.0])


def test_too_few_samples_are_refused_in_one_line():
    with pytest.raises(ValueError) as refused:
        weigh(config_of("grpo"), [[1.0]])
    assert str(refused.value) == "objective 'grpo' needs 2 samples per prompt, there are 1: draw more"


def test_only_imitation_needs_demonstrations():
    assert [name for name in OBJECTIVES if config_of(name).needs_demonstrations] == ["sft", "bon_sft"]


def test_defaults_are_best_of_sixteen_with_the_smaller_leave_one_out_baseline():
    config = ObjectiveConfig()
    assert (config.name, config.num_select, config.baseline, config.baseline_k) == ("bon", 16, "loo1", None)
    assert config.num_samples_needed == 16


@EVERY_OBJECTIVE
def test_a_setting_is_refused_exactly_where_it_has_no_effect(name):
    values = {
        "num_select": 3,
        "baseline": "loo",
        "baseline_k": 2,
        "max_weight": 2.0,
        "divide_by_std": False,
        "tilt": "paper",
        "tilt_match": "moment",
        "sample_weight": 0.5,
    }
    of_ranks = {"score_transform", "base_samples"}
    assert set(values) == set(ObjectiveConfig.model_fields) - {"name", *of_ranks}
    rewards, scores = [[1.0, 0.0, 0.0, 0.0, 0.0]], [[3.0, 2.0, 2.0, 1.0, 0.0]]
    default_BN = weigh(config_of(name, 4), rewards, scores, demonstration_scores=[2.0])
    for setting, value in values.items():
        if setting in SETTINGS[name]:
            given = {"num_select": 4} if name in SELECTS else {}
            changed = ObjectiveConfig(name=name, **{**given, setting: value})
            assert not weigh(changed, rewards, scores, demonstration_scores=[2.0]).equal(default_BN)
        else:
            with pytest.raises(
                ValidationError, match=f"{setting} = .* has no effect on the objective '{name}'"
            ):
                ObjectiveConfig(name=name, **{setting: value})


@EVERY_OBJECTIVE
def test_ranks_are_refused_exactly_where_rewards_must_be_0_and_1_or_are_not_looked_at(name):
    def weights(rewards):
        given = ([rewards], [[3.0, 2.0, 2.0, 1.0, 0.0]])
        return weigh(config_of(name, 4), *given, demonstration_scores=[2.0])

    ranks = [1.0, 0.625, 0.625, 0.25, 0.0]
    try:
        takes_ranks = not weights(ranks).equal(weights([1.0, 0.0, 0.0, 0.0, 0.0]))
    except ValueError:
        takes_ranks = False
    if takes_ranks:
        assert ObjectiveConfig(name=name, score_transform="rank_vs_base").needs_base_scores
    else:
        with pytest.raises(ValidationError, match=f"'rank_vs_base' has no effect on the objective '{name}'"):
            ObjectiveConfig(name=name, score_transform="rank_vs_base")
    assert not ObjectiveConfig(name=name, score_transform="none").needs_base_scores


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"name": "rloo", "num_select": 8},
            "num_select = 8 has no effect on the objective 'rloo': remove it or set name = 'bon'",
        ),
        ({"name": "rloo", "num_select": 16}, "num_select = 16 has no effect on the objective 'rloo'"),
        ({"name": "bon", "max_weight": 8.0}, "remove it or set name = 'bon_rlb'"),
        ({"name": "sft", "tilt": "paper"}, "remove it or set name = 'bon_sft'"),
        ({"name": "grpo", "divide_by_std": False}, "remove it or set name = 'grpo_passk'"),
        ({"baseline": "none", "baseline_k": 3}, "baseline = 'none' has no effect when baseline_k = 3 is set"),
        (
            {"name": "max_at_k", "baseline": "loo1", "baseline_k": 3},
            "baseline = 'loo1' has no effect when baseline_k = 3 is set: remove one of the two",
        ),
        (
            {"name": "pass_at_k", "base_samples": 8},
            "base_samples = 8 has no effect on the objective 'pass_at_k'",
        ),
        (
            {"base_samples": 8},
            "base_samples = 8 has no effect without score_transform = 'rank_vs_base': set that, or remove it",
        ),
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
        ({"name": "bon_rlb", "max_weight": 0.0}, "max_weight"),
        ({"name": "bon_rlb", "max_weight": INF}, "max_weight"),
        ({"name": "bon_sft", "sample_weight": -0.1}, "sample_weight"),
        ({"name": "bon_sft", "sample_weight": NAN}, "sample_weight"),
        ({"name": "bon_sft", "tilt": "smooth"}, "tilt"),
        ({"score_transform": "rank"}, "score_transform"),
        ({"score_transform": "rank_vs_base", "base_samples": 0}, "base_samples"),
    ],
)
def test_impossible_values_and_unknown_keys_are_refused_by_name(given, field):
    with pytest.raises(ValidationError) as refused:
        ObjectiveConfig(**given)
    assert [error["loc"] for error in refused.value.errors()] == [(field,)]


@pytest.mark.parametrize(
    "given",
    [
        *[{"name": name} for name in OBJECTIVES],
        {"num_select": 4, "baseline": "loo"},
        {"baseline_k": 3},
        {"num_select": {"from": 16, "to": 1, "over": 200}},
        {"name": "bon_sft", "tilt": "paper", "tilt_match": "moment", "sample_weight": 0.0},
        {"name": "bon_rlb", "max_weight": 3.0},
        {"name": "grpo_passk", "divide_by_std": False},
        {"name": "rloo", "score_transform": "rank_vs_base", "base_samples": 8},
        {"score_transform": "none"},
    ],
)
def test_a_config_that_is_written_reads_back_as_itself(given):
    config = ObjectiveConfig(**given)
    assert ObjectiveConfig.model_validate(config.model_dump()) == config
    assert ObjectiveConfig.model_validate_json(config.model_dump_json()) == config
    written = {"name", *SETTINGS[config.name]} - ({"baseline"} if config.baseline_k else set())
    if given.get("score_transform") != "rank_vs_base":  # checkpoints of versions without it have none either
        written -= {"score_transform", "base_samples"}
    assert set(config.model_dump()) == written


def test_a_schedule_goes_in_a_straight_line_through_integers_and_stays():
    config = ObjectiveConfig(num_select={"from": 16, "to": 1, "over": 200})
    numbers = [config.at(step).num_select for step in range(300)]
    assert numbers[0] == 16 and set(numbers[200:]) == {1} and sorted(set(numbers)) == list(range(1, 17))
    assert numbers == sorted(numbers, reverse=True) and all(type(number) is int for number in numbers)
    assert numbers[100] == 8  # 8.5, to the even one
    rising = ObjectiveConfig(name="max_at_k", num_select={"from": 2, "to": 8, "over": 3})
    assert [rising.at(step).num_select for step in range(5)] == [2, 4, 6, 8, 8]
    assert (rising.num_samples_needed, rising.at(0).num_samples_needed) == (8, 2)
    assert str(config.num_select) == "16 to 1 over 200 steps"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (0, "= 0 is not a positive integer: give 1 or more"),
        (True, "= True is not a positive integer"),
        ("many", "= 'many' is not a positive integer"),
        ({"from": 4, "to": 1.5, "over": 9}, "= to = 1.5 is not a positive integer"),
        (
            {"from": 4, "to": 1},
            "= {'from': 4, 'to': 1} is no schedule: give { from = 16, to = 1, over = 200 }",
        ),
        ({"from": 4, "to": 4, "over": 9}, "never changes: give the number 4"),
    ],
)
def test_what_is_no_number_and_no_schedule_is_refused_in_one_line(given, message):
    with pytest.raises(ValidationError) as refused:
        ObjectiveConfig(num_select=given)
    (error,) = refused.value.errors()
    assert error["loc"] == ("num_select",) and message in error["msg"] and "\n" not in error["msg"]


def test_a_config_cannot_be_changed_and_describes_every_field():
    with pytest.raises(ValidationError):
        ObjectiveConfig().num_select = 3
    assert all(field.description for field in ObjectiveConfig.model_fields.values())


def test_the_config_is_read_without_torch():
    program = "import sys, learner.objectives.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_enumeration_that_the_proofs_rest_on_is_that_of_the_promised_loss():
    """Autograd of the loss over all groups, weights held constant, against the helper's score function."""
    toy = Toy(logits=(0.2, -0.5, 0.4), rewards=(0.5, 1.0, 0.0), scores=(1.0, 2.0, 2.0))
    config = config_of("bon", 2)
    ys_BN = torch.cartesian_prod(*[torch.arange(3)] * 3)
    weights_BN = weigh(
        config, torch.tensor(toy.rewards).double()[ys_BN], torch.tensor(toy.scores).double()[ys_BN]
    )
    probability_B = toy.policy[ys_BN].prod(dim=1)

    def minus_loss(policy):
        return (probability_B * (weights_BN * policy.log()[ys_BN]).sum(1)).sum()

    gradient = exact_gradient(toy, minus_loss)
    torch.testing.assert_close(expected_gradient(toy, 3, config), gradient, rtol=0.0, atol=1e-14)

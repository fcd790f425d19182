"""A run that trains nothing says so, and why."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cluster.config.parse import parse_config
from cluster.run.nothing_learned import NUM_STEPS, NothingLearned, likely_cause
from tests.shared.stored_groups import referred
from tests.shared.tiny_model import make_group


def config_of(**train):
    return parse_config(
        {
            "model": "some/model",
            "rollout": {"samples_per_prompt": 4},
            "objective": {"num_select": 2},
            "train": train,
        }
    )


def group(rewards, *, texts=("a", "b", "c", "d"), reasons=("stop",) * 4, statuses=("ok",) * 4, **judged):
    scored = make_group(1, rewards=np.array(rewards, np.float64))
    samples = dataclasses.replace(scored.samples, texts=texts, finish_reasons=reasons)
    return referred(dataclasses.replace(scored, samples=samples, statuses=statuses, **judged))


NOTHING, SOMETHING = np.zeros((2, 4)), np.array([[0.0, 0.5, -0.5, 0.0], [0.0] * 4])


def test_it_is_said_after_ten_steps_without_a_weight_and_again_when_they_have_doubled():
    learning = NothingLearned(config_of())
    told = [step for step in range(1, 45) if learning.observe([group([0.0] * 4)], NOTHING)]
    assert told == [NUM_STEPS, 2 * NUM_STEPS, 4 * NUM_STEPS]
    assert learning.message(44).startswith(
        "nothing was learned in the 44 steps up to 44: every sample had reward 0"
    )


def test_one_weight_ends_the_count():
    learning = NothingLearned(config_of())
    for _ in range(NUM_STEPS - 1):
        learning.observe([group([0.0] * 4)], NOTHING)
    assert not learning.observe([group([0.0, 1.0, 0.0, 0.0])], SOMETHING)
    assert (learning.num_steps, learning.cause) == (0, "")
    assert not learning.observe([group([0.0] * 4)], NOTHING)


def test_what_rounding_leaves_of_a_weight_is_none():
    learning = NothingLearned(config_of())
    learning.observe([group([0.3] * 4)], NOTHING + 1e-17)
    assert learning.num_steps == 1


def test_a_run_that_imitates_demonstrations_learns_without_weights():
    config = parse_config({"model": "some/model", "objective": {"name": "bon_sft"}})
    learning = NothingLearned(config)
    learning.observe([group([0.0] * 4)], NOTHING)
    assert learning.num_steps == 0


@pytest.mark.parametrize(
    ("groups", "cause"),
    [
        ([group([0.0] * 4, texts=("a",) * 4)], "all samples of a prompt are alike: raise rollout.temperature = 1"),
        ([group([0.0] * 4, reasons=("length",) * 4)], "every sample was cut off at rollout.max_tokens = "),
        ([group([0.0] * 4, statuses=("wrong_format",) * 4)], "verifier 'countdown' found no answer in any sample"),
        ([group([0.0] * 4, statuses=("timeout",) * 4)], "verifier 'countdown' gave every sample the status 'timeout'"),
        ([group([0.0] * 4)], "every sample had reward 0: the problems are too hard for this model, or verifier"),
        ([group([1.0] * 4)], "every sample had reward 1: the problems are too easy, or verifier 'countdown' does"),
        ([group([1.0] * 4), group([0.0] * 4)], "the samples of each prompt had equal rewards: take more of them"),
    ],
    ids=["alike", "cut off", "no answer", "timeouts", "all wrong", "all right", "equal within each"],
)  # fmt: skip
def test_the_likely_cause_is_named(groups, cause):
    assert likely_cause(groups, config_of()).startswith(cause)


def test_with_ranks_among_the_base_it_is_not_rewards_that_are_equal():
    config = config_of()
    objective = config.objective.model_copy(update={"score_transform": "rank_vs_base"})
    cause = likely_cause([group([0.25] * 4)], config.model_copy(update={"objective": objective}))
    assert cause.startswith("the samples of each prompt had equal ranks among the base's")
    assert "objective.base_samples = 32" in cause


@pytest.mark.parametrize(
    ("groups", "cause"),
    [
        ([group([1.0, 0, 0, 0], answers=(None,) * 4)], "verifier 'countdown' names no answer of any sample"),
        ([group([1.0, 0, 0, 0], answers=("a", "b", "b", "b"))], "of no prompt does a single vote turn the outcome of 2"),
        ([group([1.0] * 4, answers=("a",) * 4)], "every sample had reward 1: the problems are too easy"),
    ],
    ids=["no answers", "far from a majority", "all right"],
)  # fmt: skip
def test_of_a_vote_the_cause_may_be_in_the_answers(groups, cause):
    config = config_of()
    objective = config.objective.model_copy(update={"name": "majority"})
    assert likely_cause(groups, config.model_copy(update={"objective": objective})).startswith(cause)

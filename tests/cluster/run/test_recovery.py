"""How often a run goes on by itself, and what of a lost learner makes it."""

from __future__ import annotations

import asyncio
import pickle

import pytest
import torch
from ray.exceptions import ActorDiedError, ObjectLostError, RayTaskError

from cluster.fleet.calls import WorkerLost, is_accident, is_out_of_memory
from cluster.fleet.ranks import Ranks
from cluster.run.recovery import Recoveries, RunLost
from learner.config import LearnerConfig

LOSS = RunLost("learner was lost while training a step: ActorDiedError")


def test_recoveries_from_one_checkpoint_are_limited():
    recoveries = Recoveries(2)
    recoveries.begin(LOSS, 10)
    recoveries.begin(LOSS, 10)
    with pytest.raises(RuntimeError) as error:
        recoveries.begin(LOSS, 10)
    assert str(error.value) == (
        f"{LOSS}; train.max_recoveries = 2 times it went on without reaching a new checkpoint"
    )
    assert recoveries.num == 2


def test_a_recovery_that_led_to_a_checkpoint_does_not_count_any_more():
    recoveries = Recoveries(1)
    for step in (0, 10, 20, 30):
        recoveries.begin(LOSS, step)
    assert recoveries.num == 4
    with pytest.raises(RuntimeError, match="max_recoveries = 1 times"):
        recoveries.begin(LOSS, 30)


def test_an_older_checkpoint_than_before_is_no_progress():
    recoveries = Recoveries(1)
    recoveries.begin(LOSS, 10)
    with pytest.raises(RuntimeError):  # the checkpoint of step 10 was damaged meanwhile
        recoveries.begin(LOSS, 5)


def test_none_may_be_wanted():
    with pytest.raises(RuntimeError) as error:
        Recoveries(0).begin(LOSS, 10)
    assert str(error.value) == f"{LOSS}; train.max_recoveries = 0"


def test_a_loss_keeps_its_type_and_words_on_its_way_from_the_controller():
    copy = pickle.loads(pickle.dumps(LOSS))
    assert type(copy) is RunLost and str(copy) == str(LOSS)


def lost(cause: BaseException | None) -> WorkerLost:
    error = WorkerLost("learner")
    error.__cause__ = cause
    return error


def raised(cause: Exception) -> WorkerLost:
    return lost(RayTaskError("train_step", "traceback", cause))


def test_a_learner_that_died_or_does_not_answer_was_lost_by_accident():
    assert is_accident(lost(ActorDiedError()), num_ranks=1)
    assert is_accident(lost(None), num_ranks=1)
    assert is_accident(raised(ObjectLostError("0" * 56, None, "")), num_ranks=1)


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_gpu_that_failed_is_an_accident_and_one_that_is_too_small_is_none(num_ranks):
    """Both are RuntimeErrors, that several ranks raise for a broken connection too."""
    assert is_accident(raised(torch.AcceleratorError("an illegal memory access")), num_ranks=num_ranks)
    full = raised(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(full) and not is_accident(full, num_ranks=num_ranks)


def test_a_pass_that_does_not_fit_is_told_with_what_makes_it_smaller(monkeypatch):
    async def does_not_fit(*_: object) -> None:
        raise raised(torch.OutOfMemoryError("CUDA out of memory"))

    monkeypatch.setattr(Ranks, "_answers", does_not_fit)
    ranks = Ranks(None, LearnerConfig(), step_timeout_s=1.0)
    with pytest.raises(
        WorkerLost, match=": lower learner.micro_batch_tokens, or set learner.recompute"
    ) as told:
        asyncio.run(ranks.working([], "training a step"))
    assert is_out_of_memory(told.value)


@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize(
    "cause",
    [ArithmeticError("loss is nan"), ValueError("groups of different sizes"), OSError(28, "No space")],
)
def test_what_a_learner_raises_would_be_raised_again(cause, num_ranks):
    assert not is_accident(raised(cause), num_ranks=num_ranks)


def test_a_broken_connection_to_another_rank_is_an_accident():
    broken = raised(RuntimeError("[gloo] Connection closed by peer"))
    assert is_accident(broken, num_ranks=2) and not is_accident(broken, num_ranks=1)

"""What goes wrong is said once, counted, and ends the run where it goes on."""

from __future__ import annotations

import logging
import time

import numpy as np
import pytest

from cluster.config.parse import parse_config
from cluster.fleet.calls import Halt, WorkerLost
from cluster.run.health import NUM_SILENT_GROUPS, Health
from learner.types import STALENESS_WARNING, WorkerParity, staleness_ratio
from tests.shared.stored_groups import referred
from tests.shared.tiny_model import make_group


@pytest.fixture
def health() -> Health:
    return Health(parse_config({"model": "m", "train": {"max_consecutive_failures": 3, "max_staleness": 2}}))


def test_failures_in_a_row_end_the_run_with_the_last_one(health: Health) -> None:
    health.note_failure("one")
    health.note_failure("two")
    with pytest.raises(Halt, match="^3 failures in a row without a finished group; the last: three$"):
        health.note_failure("three")
    assert [event.split(" ", 1)[1] for event in health.events] == ["one", "two", "three"]


def test_workers_lost_together_are_one_failure_and_their_successors_are_others(health: Health) -> None:
    before_s = time.monotonic()
    for _ in range(2):
        for _ in range(8):  # those of a node, one of them after the other
            health.note_lost(lost(before_s))
        before_s = time.monotonic()
    with pytest.raises(Halt, match="^3 failures in a row"):
        health.note_lost(lost(before_s))


def lost(made_s: float) -> WorkerLost:
    error = WorkerLost("verifier-0 was lost")
    error.made_s = made_s
    return error


def test_failed_starts_are_told_and_left_to_their_fleet(health: Health) -> None:
    error = lost(float("inf"))
    error.is_failed_start = True
    for _ in range(10):
        health.note_lost(error)
    assert len(health.events) == 10


def test_a_finished_group_forgives_the_failures_before_it(health: Health) -> None:
    for _ in range(10):
        health.note_failure("passing")
        health.note_failure("passing")
        health.note_success()


def test_a_learner_without_a_batch_is_told_of_once_a_minute_until_a_step_comes(health: Health) -> None:
    held = {"rollout-0": 4, "rollout-2": 0}
    for starving_s in [0.0, 59.0, 61.0, 62.0, 100.0, 122.0, 0.5, 59.0, 60.5]:
        health.check_starving(starving_s, usual_s=20.0, num_scored=3, num_queued=1, held=held)
    health.check_starving(200.0, usual_s=0.0, num_scored=0, num_queued=0, held={})
    told = [event.split(" ", 1)[1] for event in health.events]
    assert [message.partition(";")[0] for message in told] == [
        "no step for 61 s",
        "no step for 122 s",
        "no step for 60 s",
        "no step for 200 s",
    ]
    assert told[0].endswith("3 scored, 1 wait for a verdict, with engines: rollout-0 4, rollout-2 0")
    assert told[3].endswith("with engines: there is none")


def test_steps_that_take_minutes_anyway_are_no_starving(health: Health) -> None:
    for starving_s in [61.0, 150.0, 199.0, 201.0, 300.0, 402.0]:
        health.check_starving(starving_s, usual_s=100.0, num_scored=0, num_queued=0, held={})
    assert [event.split(" ", 1)[1].partition(";")[0] for event in health.events] == [
        "no step for 201 s",
        "no step for 402 s",
    ]


def test_failures_of_a_run_that_is_ending_are_said_and_do_not_count(health: Health) -> None:
    health.note_failure("before")
    health.note_failure("before")
    health.note_ending()
    for _ in range(5):
        health.note_failure("killed with its node")
        health.note_unjudged("p7", "KeyError: 'x'", is_new=True)
    assert len(health.events) == 12


def test_a_verifier_that_fails_on_one_problem_does_not_end_the_run_but_one_that_fails_on_each_does(
    health: Health,
) -> None:
    health.note_unjudged("p7", "KeyError: 'x'", is_new=True)
    for _ in range(10):
        health.note_unjudged("p7", "KeyError: 'x'", is_new=False)
    health.note_unjudged("p8", "KeyError: 'x'", is_new=True)
    with pytest.raises(
        Halt, match=r"^3 failures in a row .* verifier 'countdown' fails on problem p9: KeyError"
    ):
        health.note_unjudged("p9", "KeyError: 'x'", is_new=True)


def test_a_verifier_that_judges_nobody_ends_the_run_with_what_it_did(health: Health) -> None:
    for _ in range(NUM_SILENT_GROUPS - 1):
        health.check_statuses(["timeout", "refused"])
    health.check_statuses(["timeout", "ok"])
    for _ in range(NUM_SILENT_GROUPS - 1):
        health.check_statuses(["timeout", "timeout", "refused"])
    with pytest.raises(
        Halt,
        match=r"^verifier 'countdown' judged no candidate of the last 50 groups \(100 timeout, 50 refused\): "
        r"raise verifier.timeout_s = 2 or verifier.max_candidate_chars = 1000000, or mend the verifier$",
    ):
        health.check_statuses(["timeout", "timeout", "refused"])


def test_the_setting_that_bounds_values_is_named_where_they_are_too_large(health: Health) -> None:
    for _ in range(NUM_SILENT_GROUPS - 1):
        health.check_statuses(["too_large", "timeout"])
    with pytest.raises(
        Halt,
        match=r"\(50 too_large, 50 timeout\): raise verifier.timeout_s = 2, verifier.python_tests.output_kib = 4096 or "
        r"verifier.max_candidate_chars = 1000000, or mend the verifier$",
    ):
        health.check_statuses(["too_large", "timeout"])


def test_a_policy_that_has_the_format_to_learn_is_warned_of_once_and_goes_on(health: Health) -> None:
    for _ in range(3 * NUM_SILENT_GROUPS):
        health.check_statuses(["wrong_format", "timeout", "wrong_format"])
    assert len(health.events) == 1
    assert "judged no candidate of the last 50 groups (100 wrong_format, 50 timeout)" in health.events[0]
    health.check_statuses(["ok", "wrong_format"])  # a lucky one
    for _ in range(2 * NUM_SILENT_GROUPS):
        health.check_statuses(["wrong_format"])
    assert len(health.events) == 1
    for statuses in (["ok"], ["wrong_format"]):
        for _ in range(NUM_SILENT_GROUPS):
            health.check_statuses(statuses)
    assert len(health.events) == 2
    with pytest.raises(Halt, match=r"\(100 timeout, 50 wrong_format\)"):
        for _ in range(NUM_SILENT_GROUPS):
            health.check_statuses(["timeout", "timeout", "wrong_format"])


def differing(num_tokens: int, *, mean: float, kl: float, largest: float = 9.0) -> WorkerParity:
    return WorkerParity(
        num_tokens=num_tokens, difference_sum=mean * num_tokens, kl_sum=kl * num_tokens, largest=largest
    )


def in_precision(dtype: str, **train: float) -> Health:
    settings = {
        "model": "m",
        "rollout": {"dtype": dtype},
        "learner": {"dtype": dtype, "publish_dtype": dtype},
        "train": train,
    }
    return Health(parse_config(settings))


@pytest.mark.parametrize(("dtype", "max_mean", "max_kl"), [("float32", 5e-4, 1e-6), ("bfloat16", 0.1, 0.005)])
def test_an_engine_beyond_a_limit_of_its_precision_ends_the_run_by_name(
    dtype: str, max_mean: float, max_kl: float
) -> None:
    sound = differing(2000, mean=max_mean, kl=max_kl)
    in_precision(dtype).check_parity(3, {"rollout-0": sound, "rollout-1": sound})
    with pytest.raises(Halt) as halt:
        other = differing(2000, mean=1.2 * max_mean, kl=0.0)
        in_precision(dtype).check_parity(3, {"rollout-0": sound, "rollout-1": other})
    assert str(halt.value) == (
        "rollout-1 samples from another distribution than the learner trains: on 2000 tokens up to step 3, under the "
        f"weights it says it used, mean |log-prob difference| is {1.2 * max_mean:.2g} nats a token, more than "
        f"train.max_parity_mean = {max_mean:g}; check the model, rollout.dtype = {dtype!r}, learner.dtype = {dtype!r} "
        "and the temperature, or raise the limit if the model rounds more than others"
    )
    for kl in (1.2 * max_kl, float("nan")):
        with pytest.raises(
            Halt, match=r"^rollout-1 .* KL from engine to learner is .* train\.max_parity_kl = "
        ):
            in_precision(dtype).check_parity(3, {"rollout-1": differing(2000, mean=0.0, kl=kl)})


def test_limits_of_parity_can_be_set() -> None:
    health = in_precision("bfloat16", max_parity_mean=0.3, max_parity_kl=0.04)
    health.check_parity(1, {"rollout-0": differing(2000, mean=0.29, kl=0.039)})
    for mean, kl in ((0.31, 0.0), (0.0, 0.041)):
        with pytest.raises(Halt, match="more than train.max_parity_(mean = 0.3|kl = 0.04);"):
            health.check_parity(2, {"rollout-0": differing(2000, mean=mean, kl=kl)})


def test_a_few_tokens_are_judged_together_with_those_of_later_steps() -> None:
    health = in_precision("bfloat16")
    unlucky, usual = differing(400, mean=0.2, kl=0.008), differing(400, mean=0.04, kl=0.002)
    for parity in (unlucky, usual, usual, unlucky, usual, usual):  # means of 1200: 0.093, 0.004
        health.check_parity(1, {"rollout-0": parity})
    for step in (7, 8):
        health.check_parity(step, {"rollout-0": differing(400, mean=0.11, kl=0.002), "rollout-1": usual})
    with pytest.raises(Halt, match=r"^rollout-0 .* on 1200 tokens up to step 9, .* is 0\.11 nats"):
        health.check_parity(9, {"rollout-0": differing(400, mean=0.11, kl=0.002), "rollout-1": usual})


def test_an_engine_that_is_far_off_is_not_waited_for() -> None:
    """50 tokens of 3 nats are too many even among 1,024."""
    with pytest.raises(Halt, match=r"^rollout-0 .* on 50 tokens up to step 1, .* is 3 nats a token"):
        in_precision("bfloat16").check_parity(1, {"rollout-0": differing(50, mean=3.0, kl=2.0)})


def test_what_is_not_a_number_is_not_waited_with() -> None:
    with pytest.raises(Halt, match="^rollout-0 .* on 1 tokens up to step 2,"):
        in_precision("float32").check_parity(2, {"rollout-0": differing(1, mean=float("nan"), kl=0.0)})


def shifted(kl: float, rounding: float = 0.0) -> dict[str, float]:
    return {"staleness_kl": kl, "rounding_kl": rounding}


def test_staleness_is_warned_of_once_while_ten_steps_lie_too_far_on_average(
    health: Health, caplog: pytest.LogCaptureFixture
) -> None:
    limit = (2 * 0.1773 / 15) ** 2  # nats a sample; erf(0.1773 / 15) = 0.2 / 15
    assert staleness_ratio(limit, 16) == pytest.approx(STALENESS_WARNING, rel=1e-3)
    high, low = shifted(1.5 * limit), shifted(0.0)
    with caplog.at_level(logging.WARNING, "cluster"):
        # Less two standard errors the mean of the last ten passes the limit with the ninth high one (1.05 times),
        # and falls below it as they leave.
        for step, facts in enumerate([low] * 10 + [high] * 12 + [low] * 4 + [high] * 10, start=1):
            health.check_staleness(step, facts)
    assert [event.split(" ", 1)[1] for event in health.events] == caplog.messages
    ratio = staleness_ratio(1.35 * limit, 16)
    assert caplog.messages == [
        f"samples too far from the policy they train: staleness_ratio = {ratio:.3g} in the 10 steps up to {step}, "
        "above 0.2: make train.max_staleness less than 2, or learner.learning_rate less than 1e-06, if the reward does "
        "not rise"
        for step in (19, 35)
    ]


def test_the_first_steps_of_a_run_are_too_few_to_warn_of(health: Health) -> None:
    for step in range(9):
        health.check_staleness(step, shifted(1.0))
    assert health.events == []


def test_one_step_far_off_among_ten_is_not_what_they_are_on_average(health: Health) -> None:
    for step in range(20):
        health.check_staleness(step, shifted(0.3 if step == 12 else 1e-6))
    assert health.events == []


def test_that_nothing_was_compared_for_long_is_said_once() -> None:
    health = in_precision("bfloat16")
    sound = {"rollout-0": differing(400, mean=0.04, kl=0.002)}
    for step in range(1, 60):
        health.check_parity(step, sound if step == 5 else {})
    (event,) = health.events
    assert "parity has compared no token in the 20 steps up to 25: no sample of them had a weight" in event


def test_a_single_stale_step_is_no_reason_to_warn(health: Health) -> None:
    for step in range(20):
        health.check_staleness(step, shifted(1e-3 if step == 12 else 1e-6))
    assert health.events == []


def test_what_rounding_may_have_left_is_no_reason_to_warn(health: Health) -> None:
    for step in range(20):
        health.check_staleness(step, shifted(0.05, rounding=0.3))
    assert health.events == []
    for step in range(20):
        health.check_staleness(step, shifted(0.2, rounding=0.3))
    assert len(health.events) == 1


def test_warnings_are_no_failures(health: Health) -> None:
    health.note_failure("one")
    health.note_failure("two")
    for step in range(20):
        health.check_staleness(step, shifted((step % 2) * 9.0))
    health.note("starving")
    with pytest.raises(Halt, match="^3 failures in a row"):
        health.note_failure("three")


def test_a_run_of_which_no_step_learned_anything_says_so_at_its_end_however_short(health: Health) -> None:
    group = referred(make_group(1, rewards=np.zeros(4)))
    for step in (1, 2):
        health.check_learned(step, [group], np.zeros((1, 4)))
    health.note_end(2, num_steps=3)  # an earlier step did
    assert health.events == []
    health.note_end(2, num_steps=2)
    (event,) = health.events
    assert "nothing was learned in the 2 steps up to 2: " in event


def test_samples_lost_with_one_node_are_one_failure_and_those_of_the_next_another(health: Health) -> None:
    for worker in ("rollout-0", "rollout-1"):
        batches = [referred(make_group(number, worker=worker)).stored for number in range(3)]
        for batch in batches:
            health.note_gone([batch])
    assert health.events[0].split(" ", 1)[1] == (
        "samples of rollout-0 are lost with the node they were on: groups 0 are sampled again"
    )
    with pytest.raises(
        Halt, match="^3 failures in a row without a finished group; the last: samples of rollout-1"
    ):
        health.note_gone([referred(make_group(0, worker="rollout-1")).stored])

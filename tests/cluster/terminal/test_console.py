"""What the console says of a run."""

from __future__ import annotations

from io import StringIO
from typing import Any

from rich.console import Console

from cluster.terminal.console import View, describe_held_out, describe_training

FACTS: dict[str, Any] = {
    "step": 3, "steps": 9, "num_select": 8, "eta_s": 61.0, "metrics_url": "URL", "reward": 0.25, "pass_at_n": 0.5, "bon": 0.5,
    "tokens_per_s": 400.0, "sequences_per_s": 3.0, "staleness_mean": 0.5, "staleness_max": 1.0,
    "parity_tokens": 900.0, "parity_mean": 0.04, "parity_max": 0.6,
    "learning_rate": 5e-6, "grad_norm": 0.3, "clipped_fraction": 0.0,
    "steps_without_learning": 0,
    "held_out": None,
}  # fmt: skip


def test_a_step_says_reward_speed_parity_and_gradient():
    share, headline, details = describe_training(FACTS)
    assert (share, headline) == (1 / 3, "step 3/9, 1:01 left   reward 0.250   pass@8 0.500")
    assert details == [
        "400 tokens/s   3 sequences/s   staleness 0.50 (max 1)   engine-learner log-prob difference 4e-02 (max 6e-01)",
        "learning rate 5e-06   gradient norm 0.3, clipped in 0% of recent steps",
        "metrics URL",
    ]


def test_steps_in_which_nothing_is_learned_are_said_from_the_second_on():
    for num_steps, said in ((0, False), (1, False), (2, True)):
        _, _, details = describe_training({**FACTS, "steps_without_learning": num_steps})
        assert (details[0] == "nothing learned for 2 steps: no sample had a weight") is said


def test_a_step_without_weights_claims_no_parity():
    _, _, details = describe_training(
        {**FACTS, "parity_tokens": 0.0, "parity_mean": 0.0, "parity_max": 0.0, "steps_without_learning": 1}
    )
    assert details[0].endswith("log-prob difference not compared in this step, no sample had a weight")


def test_a_step_in_which_parity_had_no_turn_claims_neither_parity_nor_that_nothing_was_learned():
    _, _, details = describe_training({**FACTS, "parity_tokens": 0.0})
    assert details[0].endswith("log-prob difference not compared in this step")


def test_before_the_first_step_it_says_what_is_waited_for():
    facts = {
        "held_out": None,
        "step": 0, "steps": 9, "metrics_url": "URL", "groups": {"buffered": 1, "leased": 15}, "groups_per_step": 8,
        "num_begun": 0, "num_in_training": 0,
    }  # fmt: skip
    starting = describe_training({**facts, "rollout_workers": [{"serving": False}]})
    assert starting == (0.0, "engines and learner are starting", ["metrics URL"])
    worker = {"serving": True}
    _, headline, _ = describe_training({**facts, "rollout_workers": [worker]})
    assert headline == "sampling the first batch of 8 groups: 1 scored, 15 being sampled or scored"
    sampling = {"serving": True, "busy_s": 4.0, "num_tokens": 6000}
    _, headline, _ = describe_training({**facts, "num_begun": 1, "rollout_workers": [sampling, sampling]})
    assert headline == (
        "sampling the first batch of 8 groups: 1 scored (the learner has begun with 1), 15 being sampled or scored   "
        "3,000 tokens/s"
    )


def test_while_the_learner_works_on_the_first_batch_it_says_so_though_the_next_one_is_sampled():
    facts = {
        "held_out": None,
        "step": 0, "steps": 9, "metrics_url": "URL", "groups": {"buffered": 8, "leased": 8}, "groups_per_step": 8,
        "num_begun": 6, "num_in_training": 8, "rollout_workers": [{"serving": True}],
    }  # fmt: skip
    assert describe_training(facts)[1] == "the learner trains on the first batch, 8 groups"


def test_an_evaluation_is_one_line_with_its_interval_the_difference_and_what_sampled_it():
    estimate = {"mean": 0.5, "low": 0.4, "high": 0.6}
    row = {
        "step": 25, "oldest_version": 25, "newest_version": 27,
        "estimates": {"pass@1": {"mean": 0.25, "low": 0.2, "high": 0.3}, "pass@16": estimate},
        "differences": {"pass@16": {"mean": 0.125, "low": -0.01, "high": 0.2}},
    }  # fmt: skip
    held_out = {"newest": row, "shown": ("pass@1", "pass@16"), "best": None, "under_way": None}
    line = (
        "held out at step 25, versions 25 to 27: pass@1 0.250 [0.200, 0.300]   pass@16 0.500 [0.400, 0.600], "
        "+0.125 [-0.010, +0.200] to the base"
    )
    assert describe_held_out(held_out) == line
    best = {"step": 25, "by": "pass@16", "value": 0.5}
    assert describe_held_out({**held_out, "best": best}) == f"{line}   best so far: step 25, pass@16 0.500"
    _, _, details = describe_training({**FACTS, "held_out": held_out})
    assert details[0] == line


def test_an_evaluation_under_way_is_said_and_whether_training_waits_for_it():
    under_way = {"step": 0, "num_done": 3, "num_problems": 64, "goes_first": True}
    line = "evaluating step 0 on held-out problems: 3 of 64 scored"
    held_out = {"newest": None, "under_way": {**under_way, "goes_first": False}}
    assert describe_training({**FACTS, "held_out": held_out})[2][0] == line
    facts = {
        "held_out": {"newest": None, "under_way": under_way}, "step": 0, "steps": 9, "metrics_url": "", "groups": {},
        "rollout_workers": [{"serving": True}],
    }  # fmt: skip
    assert describe_training(facts)[1] == f"{line}, training waits for it"


def test_a_vote_that_is_trained_for_is_shown_beside_what_a_perfect_verifier_would_find():
    _, headline, _ = describe_training({**FACTS, "majority_at_n": 0.375})
    assert headline.endswith("pass@8 0.500   majority@8 0.375")


def test_win_rates_against_the_base_are_shown_where_there_are_any():
    _, headline, _ = describe_training({**FACTS, "win_rate": 0.5625, "bon_win_rate": 0.875})
    assert headline.endswith("pass@8 0.500   win rate 0.562, best-of-8 0.875")


def test_a_log_says_at_once_what_a_stage_turns_to_and_news_of_it_only_after_a_while():
    text = StringIO()
    with View("bonfire eval", ["evaluation"], Console(file=text)) as view:
        view.start("evaluation", "looking for what is missing")
        view.turn_to("evaluation", "engines are starting")
        view.update("evaluation", 0.5, "1/2 problems")
        view.finish("evaluation", "done")
    assert [line.split("] ")[-1] for line in text.getvalue().splitlines()] == [
        "bonfire eval",
        "▶ evaluation: looking for what is missing",
        "▶ evaluation: engines are starting",
        "✓ evaluation: done",
    ]

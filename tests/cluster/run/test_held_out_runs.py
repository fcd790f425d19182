"""Whole runs that are evaluated while they train: what the evaluations say, and that training is as without them."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from actors.tokens import load_tokenizer
from cluster.evaluation.sampling import Ask, sample_model
from cluster.evaluation.store import Cell
from cluster.run_directory.held_out import HeldOutRecord, read_held_out
from tests.shared.left_behind import checkpoint_at
from tests.shared.live_run import SAMPLES, asked_of, assert_same_checkpoint, scrape, serving, trajectories

PROBLEMS, STEPS, EVERY = 6, 5, 2
EVALUATED = {
    "problems": {"num_train": 10, "num_test": 9},
    "evaluation": {
        "every": EVERY,
        "samples_per_problem": SAMPLES,
        "during_problems": PROBLEMS,
        "ks": [1, 4],
    },
    "train": {"steps": STEPS, "keep_best": "best_of@8", "keep_checkpoints": 1},
}


@pytest.fixture(scope="module")
def evaluated(start, make_config, tmp_path_factory) -> tuple[Path, dict[str, Any], dict[str, float]]:
    """A synchronous run's directory, last facts, and its endpoint shortly before the end."""
    run_dir = tmp_path_factory.mktemp("evaluated")
    with start(make_config(**EVALUATED), run_dir) as run:
        metrics = scrape(run.wait_for(lambda facts: facts["held_out"]["num"] >= 2))
        return run_dir, run.finish(), metrics


def judged(run_dir: Path, step: int) -> dict[int, tuple[list[float], tuple[str | None, ...]]]:
    return {
        index: (one.rewards.tolist(), one.answers)
        for index, (_, one) in HeldOutRecord(run_dir, step=10_000).judgements(step).items()
    }


def test_a_synchronous_run_is_evaluated_at_its_beginning_every_so_often_and_at_its_end(evaluated):
    run_dir, facts, _ = evaluated
    assert facts["stage"] == "finished"
    rows = read_held_out(run_dir)
    assert [row["step"] for row in rows] == [0, 2, 4, 5]
    for row in rows:
        assert row["oldest_version"] == row["newest_version"] == row["ended_step"] == row["step"]
        assert (row["num_problems"], row["num_samples"]) == (PROBLEMS, PROBLEMS * SAMPLES)
        assert set(row["estimates"]) >= {"pass@1", "pass@4", "pass@8", "best_of@8", "majority@8", "reward"}
        assert row["num_left_out"] == 0 and len(judged(run_dir, row["step"])) == PROBLEMS


def test_a_run_says_what_its_evaluations_found(evaluated):
    run_dir, facts, metrics = evaluated
    newest = read_held_out(run_dir)[-1]
    assert facts["held_out"]["newest"] == newest and facts["held_out"]["under_way"] is None
    shown = {name for name in metrics if name.startswith("bonfire_held_out_estimate") and "{pass}" in name}
    assert shown == {
        f"bonfire_held_out_estimate{{{bound}}}{{{k}}}{{pass}}"
        for k in (1, 4, 8)
        for bound in ("mean", "low", "high")
    }
    assert metrics["bonfire_held_out_version"] in (2, 4)
    assert metrics["bonfire_held_out_sequences_total"] >= 2 * PROBLEMS * SAMPLES


def test_differences_are_those_from_the_policy_that_the_run_began_with(evaluated):
    run_dir, _, _ = evaluated
    rows = read_held_out(run_dir)
    assert rows[0]["differences"] == {}
    base = rows[0]["estimates"]
    for row in rows[1:]:
        assert set(row["differences"]) == set(row["estimates"]) == set(base)
        for name, difference in row["differences"].items():
            assert difference["mean"] == pytest.approx(row["estimates"][name]["mean"] - base[name]["mean"])
            assert difference["low"] <= difference["mean"] <= difference["high"]
    assert any(difference["mean"] for difference in rows[-1]["differences"].values())


def test_the_checkpoint_that_was_found_best_is_kept_beside_the_newest(evaluated):
    run_dir, facts, _ = evaluated
    values = {row["step"]: row["estimates"]["best_of@8"]["mean"] for row in read_held_out(run_dir)[1:]}
    best = max(values, key=lambda step: (values[step], -step))
    assert facts["held_out"]["best"] == {"step": best, "by": "best_of@8", "value": values[best]}
    assert (run_dir / "best").resolve() == checkpoint_at(run_dir, best)
    left = {path.name for path in (run_dir / "checkpoints").iterdir()}
    assert left == {checkpoint_at(run_dir, step).name for step in (best, STEPS)}


@pytest.mark.slow
def test_an_evaluation_while_it_trains_is_that_of_its_checkpoint_to_the_last_bit(
    evaluated, make_config, ray_cluster
):
    run_dir, _, _ = evaluated
    config = make_config(**EVALUATED)
    model = checkpoint_at(run_dir, STEPS) / "model"
    asked = asked_of(config, load_tokenizer(str(model)))
    assert len(asked.indices) == PROBLEMS < 9
    asks = [
        Ask(
            cell=Cell(model="trained", temperature=config.rollout.temperature),
            index=index,
            problem=problem,
            prompt_token_ids=prompt,
            seed=config.evaluation.seed_of(index),
        )
        for index, problem, prompt in zip(asked.indices, asked.problems, asked.prompts, strict=True)
    ]
    found = {}

    def on_scored(ask, group):
        found[ask.index] = (group.rewards.tolist(), group.answers)

    asyncio.run(sample_model(str(model), config, asks, num_samples=SAMPLES, on_scored=on_scored))
    assert found == judged(run_dir, STEPS)


@pytest.mark.slow
def test_training_is_the_same_to_the_last_bit_as_without_evaluations(evaluated, start, make_config, tmp_path):
    without = {name: section for name, section in EVALUATED.items() if name != "evaluation"}
    config = make_config(**without | {"problems": {"num_train": 10}, "train": {"steps": STEPS}})
    with start(config, tmp_path) as run:
        assert run.finish()["held_out"] is None
    assert_same_checkpoint(checkpoint_at(evaluated[0], STEPS), checkpoint_at(tmp_path, STEPS))
    assert not list(tmp_path.glob("held_out*"))


@pytest.mark.slow
def test_a_run_resumed_in_the_middle_of_an_evaluation_ends_as_one_that_was_not(
    evaluated, start, make_config, tmp_path
):
    whole, _, _ = evaluated
    with start(make_config(**EVALUATED), tmp_path) as run:
        run.wait_for(lambda facts: facts["step"] >= 2)
        run.stop()
        step = run.finish()["step"]
    with start(make_config(**EVALUATED), tmp_path, checkpoint=checkpoint_at(tmp_path, step)) as run:
        facts = run.finish()
    assert 2 <= step < STEPS and facts["stage"] == "finished"
    assert_same_checkpoint(checkpoint_at(whole, STEPS), checkpoint_at(tmp_path, STEPS))
    for ours, theirs in zip(read_held_out(tmp_path), read_held_out(whole), strict=True):
        taken = {"time", "seconds"}
        assert {k: v for k, v in ours.items() if k not in taken} == {
            k: v for k, v in theirs.items() if k not in taken
        }
        assert judged(tmp_path, ours["step"]) == judged(whole, ours["step"])
    assert (tmp_path / "best").resolve().name == (whole / "best").resolve().name


@pytest.mark.slow
def test_a_run_whose_evaluations_get_no_better_ends_by_itself_with_a_checkpoint(start, make_config, tmp_path):
    config = make_config(
        **EVALUATED
        | {
            "verifier": {"reward": "loop_verifiers:zero"},
            "train": {"steps": 50, "keep_best": "reward", "stop_when_worse_for": 2, "keep_checkpoints": 1},
        }
    )
    with start(config, tmp_path) as run:
        facts = run.finish()
    why = "held-out reward has not improved for 2 evaluations, the best is of step 2"
    assert (facts["stage"], facts["step"]) == (f"stopped: {why}", 6)
    assert (tmp_path / "best").resolve() == checkpoint_at(tmp_path, 2) and checkpoint_at(tmp_path, 6).exists()
    assert [row["step"] for row in read_held_out(tmp_path)] == [0, 2, 4, 6]


@pytest.mark.slow
def test_groups_of_an_evaluation_whose_engine_is_killed_are_sampled_again(start, make_config, tmp_path):
    """Asynchronously: tokens of an evaluation are of the version with which it began, or of later ones."""
    num_problems, num_samples = 30, 32
    config = make_config(
        **EVALUATED
        | {
            "problems": {"num_train": 10, "num_test": num_problems},
            "evaluation": {"every": 4, "samples_per_problem": num_samples, "during_samples": num_samples},
            "train": {"steps": 10, "max_staleness": 1, "keep_best": "pass@32", "keep_checkpoints": 1},
        }
    )
    with start(config, tmp_path) as run:
        facts = run.wait_for(lambda facts: (facts["held_out"]["under_way"] or {}).get("num_done"))
        assert facts["step"] == 0 and facts["held_out"]["under_way"]["num_done"] < num_problems
        os.kill(serving(facts)[0]["pid"], signal.SIGKILL)
        facts = run.finish()
    assert facts["stage"] == "finished" and facts["restarts"]["rollout"] == 1
    rows = read_held_out(tmp_path)
    assert (rows[0]["step"], rows[0]["oldest_version"], rows[0]["newest_version"]) == (0, 0, 0)
    assert [row["num_problems"] for row in rows] == [num_problems] * len(rows)
    assert rows[-1]["step"] == 10 and {4, 8} & {row["step"] for row in rows}
    for row in rows:
        assert row["step"] <= row["oldest_version"] <= row["newest_version"] <= 10
        assert row["num_samples"] == num_problems * num_samples
    assert sorted(group["group"] for rows in trajectories(tmp_path).values() for group in rows) == list(
        range(40)
    )

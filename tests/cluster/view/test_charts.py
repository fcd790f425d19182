"""Numbers of the charts: which series there are, and their intervals."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cluster.view.charts import CHARTS, curves_of
from cluster.view.library import Run
from cluster.view.verifier import verifier_facts
from tests.shared.viewed_runs import a_group, facts, write_viewed_run


def run_of(tmp_path, groups, **others):
    run_dir = write_viewed_run(tmp_path / "run", groups)
    lines = [facts(step, **{name: values[step - 1] for name, values in others.items()}) for step in groups]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Run(run_dir, "run", None)


def curves(run, first=None, last=None, **options):
    run.groups.read_all()
    return curves_of(run, first, last, **options)


def test_the_interval_of_the_reward_is_over_the_steps_prompts(tmp_path):
    shares = [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]]
    run = run_of(tmp_path, {1: [a_group(i, share) for i, share in enumerate(shares)]}, reward=[0.375])
    found = curves(run)
    half = 1.959964 * np.std([0.5, 0.25, 0.0, 0.75], ddof=1) / 2
    assert found["mean"]["reward"] == [0.375] and found["steps_per_point"] == 1
    assert found["low"]["reward"][0] == pytest.approx(0.375 - half, rel=1e-4)
    assert found["high"]["reward"][0] == pytest.approx(0.375 + half, rel=1e-4)


def test_best_of_n_has_the_interval_of_pass_at_n_where_it_is_that_and_stands_alone(tmp_path):
    groups = {1: [a_group(0, [1, 0, 0, 0]), a_group(1, [0, 0, 0, 0])]}
    same = curves(run_of(tmp_path / "same", groups, bon=[0.25], pass_at_n=[0.25]))
    assert "pass_at_n" not in same["mean"] and same["low"]["bon"] == [0.0]
    other = curves(run_of(tmp_path / "other", groups, bon=[0.2], pass_at_n=[0.25]))
    assert "bon" not in other["low"] and other["low"]["pass_at_n"] == [0.0]


def test_rewards_other_than_0_and_1_have_no_interval_of_pass_at_n(tmp_path):
    found = curves(
        run_of(tmp_path, {1: [a_group(0, [3.0, -1.0]), a_group(1, [0.5, 0.0])]}, bon=[1.0], pass_at_n=[2.0])
    )
    assert "pass_at_n" not in found["low"] and "bon" not in found["low"]
    assert found["high"]["reward"][0] > 1  # not cut off at 1


def test_agreement_is_shown_only_where_score_and_reward_are_two_things(tmp_path):
    one = curves(run_of(tmp_path / "one", {1: [a_group(0, [1.0, 0.0])]}))
    two = curves(run_of(tmp_path / "two", {1: [a_group(0, [1.0, 0.0], scores=[0.1, 0.4])]}))
    assert "agreement" not in one["mean"] and two["mean"]["agreement"] == [0.0]


def test_steps_whose_groups_are_not_read_yet_have_no_interval(tmp_path):
    run = run_of(tmp_path, {1: [a_group(0, [1.0, 0.0]), a_group(1, [0.0, 0.0])], 2: [a_group(2, [1.0, 0.0])]})
    (run.directory / "trajectories" / "step-000001.parquet").unlink()
    found = curves(run)
    assert found["x"] == [1, 2] and found["low"]["reward"] == [
        None,
        None,
    ]  # none, and one group has no spread
    assert found["mean"]["workers"] == [None, 1.0]


def test_a_part_of_the_steps_is_finer(tmp_path):
    run = run_of(tmp_path, {step: [a_group(step, [1.0, 0.0])] for step in range(1, 21)})
    assert curves(run, max_points=5)["x"] == [4, 8, 12, 16, 20]
    assert curves(run, 3, 6, max_points=5)["x"] == [3, 4, 5, 6]
    assert curves(run, 30, 40)["x"] == []


def test_a_run_without_any_step_has_no_series(tmp_path):
    run = Run(write_viewed_run(tmp_path / "run", {}), "run", None)
    assert curves(run)["mean"] == {} and curves(run)["held_out"] is None


def test_every_chart_names_facts_that_a_run_records_or_its_groups_give():
    from cluster.run.metrics import BATCH_GAUGES, LEARNER_GAUGES

    recorded = {*BATCH_GAUGES, *LEARNER_GAUGES}
    recorded |= {
        "step_s",
        "wait_s",
        "verify_s",
        "ahead_s",
        "learn_s",
        "sync_s",
        "tokens_per_s",
        "group_p50_s",
        "group_p95_s",
    }
    recorded |= {"unfinished", "wrong_format"}
    from_groups = {"distinct", "agreement", "workers"}
    assert {name for chart in CHARTS for name, _ in chart.series} <= recorded | from_groups


def test_the_verifiers_numbers_are_means_over_groups_and_its_table_is_by_score(tmp_path):
    groups = {
        1: [a_group(0, [1.0, 0.0], scores=[0.1, 0.9]), a_group(1, [1.0, 0.0], scores=[0.9, float("-inf")])]
    }
    run = run_of(tmp_path, groups)
    found = verifier_facts(run, run.groups.read_all())
    assert (found["picked"]["mean"], found["best"]["mean"], found["regret"]["mean"]) == (0.5, 1.0, 0.5)
    assert found["agreement"]["mean"] == 0.5 and not found["is_one"]
    assert [(row["label"], row["num"], row["reward"]) for row in found["bins"]] == [
        ("-inf: never picked", 1, 0.0), ("0.1", 1, 1.0), ("0.9", 2, 0.5),
    ]  # fmt: skip


def test_the_interval_of_pass_at_n_is_at_the_n_of_each_step(tmp_path):
    groups = [a_group(0, [1, 0, 0, 0]), a_group(1, [0, 0, 0, 0])]
    run = run_of(tmp_path, {1: groups, 2: groups}, pass_at_n=[0.25, 0.125], bon=[0, 0], num_select=[2, 1])
    found = curves(run)
    spread = 1.959964 * np.std([0.25, 0.0], ddof=1) / 2**0.5
    assert found["high"]["pass_at_n"][1] == pytest.approx(0.125 + spread, rel=1e-4)
    assert found["high"]["pass_at_n"][0] == pytest.approx(0.25 + 2 * spread, rel=1e-4)
    assert found["num_select"] == "N"
    other = run_of(tmp_path / "other", {1: groups}, num_select=[3])
    assert curves(other)["num_select"] == other.num_select == 2

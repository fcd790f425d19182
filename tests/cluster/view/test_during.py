"""Evaluations while a run trains, as the page shows them: curves with intervals, and a table."""

from __future__ import annotations

import pytest

from cluster.view.charts import curves_of
from cluster.view.during import during_curves, during_table, shown_names
from cluster.view.held_out_problems import held_out_problems
from cluster.view.library import Run
from cluster.view.pages import held_out_page, live_state, problems_page, run_page
from cluster.view.standalone import report_html
from tests.shared.viewed_runs import a_group, write_held_out, write_viewed_run

BASE, LATER = [[1, 0], [0, 0], [0, 0]], [[1, 1], [1, 0], [0, 0]]


def a_run(tmp_path, evaluations):
    run_dir = write_viewed_run(tmp_path / "run", {1: [a_group(0, [1, 0])], 2: [a_group(1, [1, 1])]})
    write_held_out(run_dir, evaluations)
    return Run(run_dir, "run", None)


def test_a_curve_has_the_estimates_of_each_evaluation_and_the_differences_of_all_but_the_base(tmp_path):
    run = a_run(tmp_path, {0: BASE, 2: LATER})
    estimates, differences = during_curves(run, None, None)
    assert estimates["x"] == [0, 2] and differences["x"] == [2]
    one, two = estimates["lines"]
    assert (one["label"], one["mean"]) == ("pass@1", [0.16667, 0.5])
    assert (two["label"], two["mean"]) == ("pass@2", [0.33333, 0.66667])
    for line in estimates["lines"]:
        assert all(
            low <= mean <= high
            for low, mean, high in zip(line["low"], line["mean"], line["high"], strict=True)
        )
    assert differences["lines"][0]["mean"] == [0.33333]
    assert curves_of(run, 1, None)["during"][0]["x"] == [2]


def test_a_table_says_what_sampled_each_evaluation(tmp_path):
    table = during_table(a_run(tmp_path, {0: BASE, 2: LATER}))
    assert table.heads == ("pass@1", "difference", "pass@2", "difference", "versions", "problems", "seconds")
    (step, base), (_, later) = table.rows
    assert step == "0" and base[0].startswith(".167 [") and base[1] == ""
    assert later[1].startswith("+.333 [") and later[-3:] == ("2 to 3", "3", "2")


def test_selection_and_majority_are_shown_only_where_they_are_not_pass_at_k():
    def row(**means):
        return {"estimates": {name.replace("_at_", "@"): {"mean": mean} for name, mean in means.items()}}

    same = row(pass_at_1=0.2, pass_at_8=0.5, best_of_at_8=0.5, majority_at_8=0.3, reward=0.2)
    assert shown_names([same]) == ["pass@1", "pass@8", "majority@8"]
    assert shown_names([same, row(pass_at_8=0.5, best_of_at_8=0.4)]) == [
        "pass@1",
        "pass@8",
        "best_of@8",
        "majority@8",
    ]
    assert shown_names([row(pass_at_1=0.2)]) == ["pass@1"] and shown_names([]) == []


def test_page_and_report_have_them_and_a_page_learns_of_new_ones(tmp_path):
    run = a_run(tmp_path, {0: BASE, 2: LATER})
    assert "Held out while training" in run_page(run) and "+.333 [" in run_page(run)
    assert "Held out while training" in report_html(run) and '"label":"pass@2"' in report_html(run).replace(
        " ", ""
    )
    assert live_state(run)["evaluations"] == 2


def test_a_run_without_evaluations_has_no_word_of_them(tmp_path):
    run = Run(write_viewed_run(tmp_path / "run", {1: [a_group(0, [1, 0])]}), "run", None)
    assert during_curves(run, None, None) == [] and during_table(run) is None
    assert "while training" not in run_page(run) and "while training" not in report_html(run)


def test_a_held_out_problem_is_followed_over_the_evaluations(tmp_path):
    run = a_run(tmp_path, {0: BASE, 2: LATER})
    first, second, third = held_out_problems(run.directory)
    assert [one.problem_id for one in (first, second, third)] == ["h0", "h1", "h2"]
    assert first.steps_E.tolist() == [0, 2] and first.num_correct_E.tolist() == [1, 2]
    assert first.reward_E.tolist() == [0.5, 1.0] and first.pass_E.tolist() == [1.0, 1.0] and first.k == 2
    one, two = second.chart()["ks"]
    assert (one["k"], one["mean"]) == (1, [0.0, 0.5]) and (two["k"], two["mean"]) == (2, [0.0, 1.0])
    assert all(
        low <= mean <= high for low, mean, high in zip(one["low"], one["mean"], one["high"], strict=True)
    )
    assert two["low"] > one["low"] and two["high"] >= one["high"]
    assert "held-out?id=h2" in problems_page(run, {}) and "held-out?id=h2" not in problems_page(
        run, {"problem": "h1"}
    )
    assert "<td>2</td><td>1</td><td>2</td>" in held_out_page(run, "h1")
    with pytest.raises(LookupError, match="was not evaluated on 'p0' while it trained"):
        held_out_page(run, "p0")


def test_a_damaged_file_of_an_evaluation_is_left_out(tmp_path):
    run = a_run(tmp_path, {0: BASE, 2: LATER})
    (run.directory / "held_out" / "step-000000.parquet").write_text("no table")
    assert held_out_problems(run.directory)[0].steps_E.tolist() == [2]
    assert "held-out?id" not in problems_page(Run(tmp_path / "none", "none", None), {})

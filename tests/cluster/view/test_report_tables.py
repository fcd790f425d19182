"""Tables made of report.json, against the terminal's numbers."""

from __future__ import annotations

import json

from cluster.evaluation import tables as terminal
from cluster.view.evaluations import held_out_curves
from cluster.view.report_tables import number, report_tables
from tests.shared.viewed_runs import a_group, write_evaluation
from verifiers.types import Problem


def report_of(tmp_path, difficulties=("easy", "easy", "hard", "hard")):
    problems = [Problem(id=f"p{i}", prompt="?", difficulty=level) for i, level in enumerate(difficulties)]
    base = [a_group(i, [1.0, 0.0, 0.0, 0.0], problem_id=f"p{i}") for i in range(4)]
    trained = [a_group(i, [1.0, float(i < 2), 0.0, 0.0], problem_id=f"p{i}") for i in range(4)]
    directory = write_evaluation(tmp_path / "eval", problems, {"base": base, "trained": trained})
    return json.loads((directory / "report.json").read_text())


def test_the_curve_has_each_models_estimate_and_its_difference_from_the_first(tmp_path):
    found = {table.title: table for table in report_tables(report_of(tmp_path))}
    curve = found["held-out pass@k = Best-of-k, 95 % intervals"]
    assert curve.heads == ("base", "trained", "difference")
    assert [label for label, _ in curve.rows] == ["1", "2"]
    assert curve.rows[0][1][0] == ".250 [.250, .250]" and curve.rows[0][1][2].startswith("+.125 [")


def test_difficulties_have_rows_of_their_own_at_the_largest_k(tmp_path):
    [table] = [one for one in report_tables(report_of(tmp_path)) if "by difficulty" in one.title]
    assert table.title == "held-out pass@k = Best-of-k at k = 2 by difficulty"
    assert [label for label, _ in table.rows] == ["easy (2)", "hard (2)"]
    assert [values[2].split(" ")[0] for _, values in table.rows] == ["+.333", "+.000"]


def test_one_difficulty_needs_no_table(tmp_path):
    titles = [table.title for table in report_tables(report_of(tmp_path, [""] * 4))]
    assert (
        not [title for title in titles if "difficulty" in title] and titles[-1] == "the samples of a problem"
    )


def test_win_rates_have_a_table_of_the_models_that_have_one_and_a_chart(tmp_path):
    problems = [Problem(id=f"p{i}", prompt="?") for i in range(3)]
    base, trained = (
        [a_group(i, [0.0] * 4, scores=scores, problem_id=f"p{i}") for i in range(3)]
        for scores in ([0.5, 2.0, 3.0, 4.0], [1.0, 2.0, 3.5, 9.0])
    )
    directory = write_evaluation(tmp_path / "eval", problems, {"base": base, "trained": trained})
    report = json.loads((directory / "report.json").read_text())
    [table] = [one for one in report_tables(report) if "win rate" in one.title]
    assert table.title == "held-out win rate of Best-of-k against one sample of base, 95 % intervals"
    assert table.heads == ("trained",) and table.rows[0][1][0] == ".500 [.500, .500]"
    [metric] = [one for one in held_out_curves(report)["metrics"] if one["name"] == "win_rate_at_k"]
    [cell] = metric["cells"]
    assert (cell["label"], cell["place"], cell["mean"][0]) == ("trained@1", 1, 0.5)
    report["win_rate_is_of_pass_at_k"] = True
    assert not [one for one in report_tables(report) if "win rate" in one.title]


def test_several_temperatures_have_a_table_each_and_the_best_is_said(tmp_path):
    report = report_of(tmp_path)
    warmer = [{**cell, "temperature": 1.5} for cell in report["cells"]]
    report["cells"] += warmer
    report["best_temperature"] = {
        "": {"base": {"pass_at_k": {"2": {"temperature": 1.5, "certainty": 0.875}}}}
    }
    titles = [table.title for table in report_tables(report)]
    assert "held-out pass@k = Best-of-k, 95 % intervals, temperature 1.5" in titles
    [best] = [table for table in report_tables(report) if table.title.startswith("best temperature")]
    assert best.rows == (("base", ("", "1.5 (88 %)")),)


def test_numbers_are_written_as_in_the_terminal():
    for value in (0.0, -0.0, 0.5844, 1.0, -2.134, 0.9996, -0.0001):
        for sign in ("", "+"):
            assert number(value, sign) == terminal.number(value, sign)
    assert number(None) == number(float("nan")) == ""


def test_a_chart_of_held_out_results_has_their_intervals(tmp_path):
    curves = held_out_curves(report_of(tmp_path))
    [metric] = curves["metrics"]
    assert curves["ks"] == [1, 2] and metric["title"] == "pass@k = Best-of-k"
    assert [cell["label"] for cell in metric["cells"]] == ["base@1", "trained@1"]
    low, mean, high = (metric["cells"][1][end][0] for end in ("low", "mean", "high"))
    assert low <= mean == 0.375 <= high

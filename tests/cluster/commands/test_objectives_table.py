"""`bonfire objectives` and docs/objectives.md say what the table and the measurements say."""

from __future__ import annotations

import io
import json
import re

import pytest
from click.testing import CliRunner
from rich.console import Console

from benchmarks.objectives import RESULT, markdown
from benchmarks.toy_gradients import HARD, best_of, compare, gradient, moments_of
from cluster.commands.cli import cli
from cluster.commands.objectives_table import show_objectives
from learner.objectives.config import ObjectiveConfig
from learner.objectives.table import OBJECTIVES
from tests.shared.paths import ROOT

DOCS = ROOT / "docs" / "objectives.md"
MEASURED = json.loads(RESULT.read_text())


def printed(name, width):
    console = Console(file=io.StringIO(), width=width, highlight=False)
    show_objectives(name, console)
    return console.file.getvalue()


def words(text):
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_its_terminal_and_has_a_row_for_every_objective(width):
    lines = printed(None, width).splitlines()
    assert max(map(len, lines)) <= width
    assert [line.split()[0] for line in lines[1:-1] if re.match(r"\w", line)] == list(OBJECTIVES)
    assert "…" not in "".join(lines)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_entry_is_printed_whole_brackets_included(name):
    row, text = OBJECTIVES[name], words(printed(name, 80))
    for part in (row.summary, row.estimand, row.formula, row.unbiased, row.source, row.use, row.not_promised):
        assert words(part) in text


def test_the_command_prints_the_same_and_refuses_an_unknown_name():
    result = CliRunner().invoke(cli, ["objectives", "maxrl"], env={"COLUMNS": "100"})
    assert result.exit_code == 0 and "arXiv 2602.02710" in result.stdout
    unknown = CliRunner().invoke(cli, ["objectives", "ppo"])
    assert str(unknown.exception) == f"'ppo' is not an objective: use one of {', '.join(OBJECTIVES)}"
    assert "Example" in CliRunner().invoke(cli, ["objectives", "--help"]).stdout


def test_the_docs_have_a_section_for_every_objective():
    headings = re.findall(r"^### (.*)$", DOCS.read_text(), flags=re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(headings))) == sorted(OBJECTIVES)


@pytest.mark.parametrize("name", ["own estimand", "best of N", "baselines", "imitation"])
def test_the_docs_tables_are_the_measured_ones(name):
    assert markdown(MEASURED)[name] in DOCS.read_text()


def test_the_committed_measurement_found_no_bias_where_none_is_promised():
    worst = MEASURED["worst_error_of_unbiased"]
    assert worst["all"] == max(worst.values()) <= 1e-9
    assert set(worst) == {
        "bon",
        "pass_at_k",
        "max_at_k",
        "majority",
        "rloo",
        "rft",
        "maxrl",
        "grpo_passk",
    } | {
        "bon_sft, no tie",
        "all",
    }


def test_the_committed_measurement_is_that_of_the_code():
    measured = MEASURED["objectives"]["table"]
    exact = gradient(HARD, best_of(HARD, 4))
    for name in ("bon", "bon_rlb", "bon_rlbp"):
        cell = compare(moments_of(ObjectiveConfig(name=name, num_select=4), HARD, 8), exact)
        assert cell == pytest.approx(measured[name]["binary, hard"]["best_of_n"], abs=1e-9)
    cell = compare(moments_of(ObjectiveConfig(name="grpo"), HARD, 8), exact)
    assert cell == pytest.approx(measured["grpo"]["binary, hard"]["best_of_n"], abs=1e-9)

"""`bonfire report`: one file that holds all it shows, and lets nothing else run or load."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest
from click.testing import CliRunner

from cluster.commands.cli import cli
from tests.shared.viewed_runs import a_group, write_evaluation, write_viewed_run
from verifiers.types import Problem

HOSTILE = "</script><script>alert(1)</script><img src=//evil.example onerror=alert(1)>"


@pytest.fixture
def report(tmp_path):
    groups = {
        step: [
            a_group(2 * step, [1.0, 0.0], scores=[0.0, 1.0], texts=[HOSTILE, f"worse {step}"]),
            a_group(2 * step + 1, [0.0, 0.0], texts=[f"lost {step}", HOSTILE]),
        ]
        for step in range(1, 11)
    }
    run_dir = write_viewed_run(tmp_path / "run", groups, about={"git_commit": HOSTILE})
    (run_dir / "controller.log").write_text(f"2026-01-01 00:00:00,000 cluster.run.health {HOSTILE}\n")
    problems = [Problem(id=f"{HOSTILE}{i}", prompt="p") for i in range(3)]
    samples = [a_group(i, [1.0, 0.0], problem_id=problem.id) for i, problem in enumerate(problems)]
    write_evaluation(run_dir / "evaluation", problems, {"base": samples, "trained": samples})
    result = CliRunner().invoke(cli, ["report", str(run_dir)])
    assert result.exit_code == 0, result.output
    assert result.output.startswith(str(run_dir / "report.html"))
    return (run_dir / "report.html").read_text()


def test_its_policy_names_its_one_script_and_its_styles_and_allows_no_request(report):
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', report)
    policy = policy.replace("&#39;", "'")
    scripts = re.findall(r"<script>(.*?)</script>", report, re.DOTALL)
    styles = re.findall(r"<style>(.*?)</style>", report, re.DOTALL)
    assert len(scripts) == len(styles) == 1
    for kind, text in (("script", scripts[0]), ("style", styles[0])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    assert "connect-src" not in policy and "img-src" not in policy


def test_it_asks_for_nothing_and_nothing_in_it_is_markup(report):
    outside = re.sub(r"<(script|style)\b[^>]*>.*?</\1>", "", report, flags=re.DOTALL)
    assert "<img" not in outside and "alert(1)</script>" not in outside
    assert re.findall(r"\b(?:src|href|action)=", re.sub(r"&lt;.*?&gt;", "", outside)) == []
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in outside


def test_its_numbers_are_in_it(report):
    [data] = re.findall(r'<script type="application/json" id="payload">(.*?)</script>', report, re.DOTALL)
    [run] = json.loads(data)["runs"]
    assert (
        run["x"] == list(range(1, 11)) and run["mean"]["regret" if "regret" in run["mean"] else "agreement"]
    )
    assert run["events"][0]["text"] == HOSTILE
    assert [cell["mean"] for cell in run["held_out"]["metrics"][0]["cells"]] == [[0.5, 1.0]] * 2


def test_it_shows_the_best_and_the_worst_groups_of_the_policy_as_it_ended(report):
    assert "of steps 9 to 10" in report
    assert "worse 10" in report and "lost 9" in report and "worse 8" not in report and "lost 8" not in report
    assert "A better sample was not picked" in report


def test_a_run_that_has_only_begun_has_a_report(tmp_path):
    run_dir = write_viewed_run(tmp_path / "run", {})
    result = CliRunner().invoke(cli, ["report", str(run_dir), "--out", str(tmp_path / "a.html")])
    assert result.exit_code == 0 and "run" in (tmp_path / "a.html").read_text()


def test_what_is_no_run_is_refused_in_one_line(tmp_path):
    run_dir = write_viewed_run(tmp_path / "run", {})
    for arguments, message in (
        ([str(tmp_path)], "holds no run"),
        (["nowhere"], "there is no directory nowhere"),
        ([str(run_dir), "--out", str(tmp_path / "no" / "a.html")], "there is no directory"),
    ):
        result = CliRunner().invoke(cli, ["report", *arguments])
        assert (
            result.exit_code == 1 and message in str(result.exception) and "\n" not in str(result.exception)
        )

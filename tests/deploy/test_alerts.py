"""The alert rules name series that a run has, and fire when they should."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import yaml

from cluster.run.metrics import Metrics
from tests.shared.paths import ROOT

FOLDER = ROOT / "deploy" / "monitoring"
RULES = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]
FIRING = {
    "BonfireNothingLearned": ("bonfire_batch_weightless_steps", "0+1x40", "30m"),
    "BonfireProblemsSetAside": ("bonfire_verifier_unjudged_problems", "0 1x40", "2m"),
    "BonfireVerifierFails": ('bonfire_verifier_verdicts_total{status="crashed"}', "0+1x40", "20m"),
    "BonfireNoStep": ("bonfire_learner_steps_total", "7x60", "50m"),
    "BonfireWorkersLost": ('bonfire_cluster_restarts_total{role="rollout"}', "0 0 1 2 3x40", "6m"),
    "BonfireWorkerSilent": ('bonfire_cluster_silent_workers{role="rollout"}', "0 1x40", "5m"),
}
"""A series, its values a minute apart, and when the alert is to be there."""
QUIET = {
    "BonfireNothingLearned": ("bonfire_batch_weightless_steps", "0x60", "50m"),
    "BonfireProblemsSetAside": ("bonfire_verifier_unjudged_problems", "0x60", "50m"),
    "BonfireVerifierFails": ('bonfire_verifier_verdicts_total{status="ok"}', "0+1x60", "50m"),
    "BonfireNoStep": ("bonfire_learner_steps_total", "0+1x60", "50m"),
    "BonfireWorkersLost": ('bonfire_cluster_restarts_total{role="rollout"}', "0 0 1x60", "6m"),
    "BonfireWorkerSilent": ('bonfire_cluster_silent_workers{role="rollout"}', "0x60", "50m"),
}


def test_every_rule_asks_for_series_that_a_run_has():
    series = {sample.name for family in Metrics().registry.collect() for sample in family.samples}
    families = {family.name for family in Metrics().registry.collect()}
    for rule in RULES:
        asked = re.findall(r"bonfire_\w+", rule["expr"])
        assert asked, rule["alert"]
        for name in asked:
            assert name in series or name.removesuffix("_total") in families, (rule["alert"], name)


def test_every_rule_is_tried():
    assert {rule["alert"] for rule in RULES} == FIRING.keys() == QUIET.keys()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_rules_fire_when_they_should_and_not_otherwise(tmp_path):
    cases = [(FIRING, 1), (QUIET, 0)]
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": series, "values": values}],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)',
                    "eval_time": at,
                    "exp_samples": [{"labels": "{}", "value": expected}],
                }
            ],
        }
        for kind, expected in cases
        for alert, (series, values, at) in kind.items()
    ]
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(FOLDER / "alerts.yml")], "tests": tests}))
    done = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

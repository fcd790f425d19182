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
CASES = [
    ("BonfireNothingLearned", "bonfire_batch_weightless_steps", "0+1x40", "30m", True),
    ("BonfireNothingLearned", "bonfire_batch_weightless_steps", "0x60", "50m", False),
    ("BonfireProblemsSetAside", "bonfire_verifier_unjudged_problems", "0 1x40", "2m", True),
    ("BonfireProblemsSetAside", "bonfire_verifier_unjudged_problems", "0x60", "50m", False),
    ("BonfireVerifierFails", 'bonfire_verifier_verdicts_total{status="crashed"}', "0+1x40", "20m", True),
    ("BonfireVerifierFails", 'bonfire_verifier_verdicts_total{status="ok"}', "0+1x60", "50m", False),
    ("BonfireNoStep", "bonfire_learner_steps_total", "7x60", "50m", True),
    ("BonfireNoStep", "bonfire_learner_steps_total", "0+1x60", "50m", False),
    ("BonfireWorkersLost", 'bonfire_cluster_restarts_total{role="rollout"}', "0 0 1 2 3x40", "6m", True),
    ("BonfireWorkersLost", 'bonfire_cluster_restarts_total{role="rollout"}', "0 0 1x60", "6m", False),
    ("BonfireWorkerSilent", 'bonfire_cluster_silent_workers{role="rollout"}', "0 1x40", "5m", True),
    ("BonfireWorkerSilent", 'bonfire_cluster_silent_workers{role="rollout"}', "0x60", "50m", False),
    ("BonfireDiskFull", "bonfire_cluster_disk_free_bytes", "1e9-1e7x80", "50m", True),
    ("BonfireDiskFull", "bonfire_cluster_disk_free_bytes", "1e9-1e5x80", "50m", False),
]
"""An alert, a series, its values a minute apart, a moment, and whether the alert is to fire then."""


def test_every_rule_asks_for_series_that_a_run_has():
    series = {sample.name for family in Metrics().registry.collect() for sample in family.samples}
    families = {family.name for family in Metrics().registry.collect()}
    for rule in RULES:
        asked = re.findall(r"bonfire_\w+", rule["expr"])
        assert asked, rule["alert"]
        for name in asked:
            assert name in series or name.removesuffix("_total") in families, (rule["alert"], name)


def test_every_rule_is_tried():
    alerts = {rule["alert"] for rule in RULES}
    for fires in (True, False):
        assert alerts == {alert for alert, *_, expected in CASES if expected is fires}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_rules_fire_when_they_should_and_not_otherwise(tmp_path):
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": series, "values": values}],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)',
                    "eval_time": at,
                    "exp_samples": [{"labels": "{}", "value": int(fires)}],
                }
            ],
        }
        for alert, series, values, at, fires in CASES
    ]
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(FOLDER / "alerts.yml")], "tests": tests}))
    done = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

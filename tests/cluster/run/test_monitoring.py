"""A real Prometheus on a real run: every panel and every alert finds its series, and an alert fires when it should."""

from __future__ import annotations

import re

import psutil
import pytest
import yaml

from tests.shared.grafana import expressions, filled_in
from tests.shared.prometheus import FOLDER, needs_prometheus, scraping

pytestmark = [pytest.mark.slow, needs_prometheus]
RULES = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]


def test_every_panel_and_alert_has_data_and_a_stopped_worker_is_an_alert(start, make_config, tmp_path):
    config = make_config(
        train={
            "steps": 10_000,
            "checkpoint_every": 3,
            "keep_checkpoints": 1,
            "stand_ins": False,
            "keep_best": "pass@8",
        },
        evaluation={"every": 2, "during_problems": 4, "samples_per_problem": 8, "ks": [1, 8]},
        rollout={"suspect_after_s": 3.0, "heartbeat_timeout_s": 300.0},
    )
    with start(config, tmp_path / "run") as run:
        facts = run.wait_for(lambda facts: facts["step"] >= 3)
        with scraping(facts["metrics_port"], tmp_path) as prometheus:
            begun_at = facts["step"]
            prometheus.wait_until(lambda: prometheus.query("bonfire_learner_steps_total")[0]["value"][1])
            run.wait_for(lambda facts: facts["step"] >= begun_at + 5)
            asked = [(title, filled_in(expression)) for title, expression in expressions()]
            asked += [
                (rule["alert"], re.sub(r"\s*(==|>=|<=|>|<)\s*[\d.]+$", "", rule["expr"])) for rule in RULES
            ]
            prometheus.wait_until(lambda: all(prometheus.query(expression) for _, expression in asked))
            for title, expression in asked:
                values = {one["value"][1] for one in prometheus.query(expression)}
                is_of_others = re.search("majority_at_n|win_ratio", expression)  # no votes and no ranks here
                assert values == {"NaN"} if is_of_others else values - {"NaN"}, (title, expression)
            assert {rule["health"] for rule in rules_of(prometheus)} == {"ok"}
            assert "BonfireWorkerSilent" not in prometheus.firing()
            [worker] = run.facts()["rollout_workers"]
            process = psutil.Process(worker["pid"])
            process.suspend()
            try:
                prometheus.wait_until(lambda: "BonfireWorkerSilent" in prometheus.firing(), timeout_s=240)
            finally:
                process.resume()
            prometheus.wait_until(lambda: "BonfireWorkerSilent" not in prometheus.firing())


def rules_of(prometheus):
    (group,) = prometheus.get("rules")["groups"]
    return group["rules"]

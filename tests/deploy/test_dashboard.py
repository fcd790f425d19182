"""The dashboard for Grafana, and the configurations of Prometheus beside it: valid, and of series that a run has."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import yaml

from cluster.config.schema import MetricsConfig
from cluster.run.metrics import Metrics
from tests.deploy.test_alerts import FOLDER
from tests.deploy.test_manifests import container, manifest
from tests.shared.grafana import DASHBOARD, PANELS, expressions

SCRAPING = sorted(path.name for path in FOLDER.glob("prometheus*.yml"))


def test_every_panel_asks_for_series_that_a_run_has():
    collected = list(Metrics().registry.collect())
    known = {family.name for family in collected} | {
        f"{family.name}{suffix}"
        for family in collected
        for suffix in {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(
            family.type, ()
        )
    }
    asked = {name for _, expression in expressions() for name in re.findall(r"bonfire_\w+", expression)}
    assert len(asked) > 40 and asked <= known


def test_the_dashboard_can_be_imported():
    (datasource, instance) = DASHBOARD["templating"]["list"]
    assert (datasource["name"], datasource["type"]) == ("datasource", "datasource")
    assert instance["definition"] == "label_values(bonfire_learner_version, instance)"
    for panel in PANELS:
        assert panel["title"] and panel["description"] and panel["targets"], panel["title"]
        sources = {target["datasource"]["uid"] for target in panel["targets"]} | {panel["datasource"]["uid"]}
        assert sources == {"${datasource}"}, panel["title"]
        for target in panel["targets"]:
            assert "$instance" in target["expr"], target["expr"]
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_no_two_panels_cover_each_other():
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells and place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells


def test_every_configuration_reaches_the_port_that_a_run_serves():
    port = MetricsConfig().port
    configs = {name: yaml.safe_load((FOLDER / name).read_text()) for name in SCRAPING}
    for name in ("prometheus.yml", "prometheus-cluster.yml"):
        (ours,) = [job for job in configs[name]["scrape_configs"] if job["job_name"] == "bonfire"]
        assert ours["static_configs"] == [{"targets": [f"127.0.0.1:{port}"]}]
    assert all(config["rule_files"] == ["alerts.yml"] for config in configs.values())


def test_in_kubernetes_the_head_pods_port_is_kept_and_no_other():
    config = yaml.safe_load((FOLDER / "prometheus-kubernetes.yml").read_text())
    keep = config["scrape_configs"][0]["relabel_configs"][0]
    pod = manifest("rayjob.yaml")["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
    labels = pod["metadata"]["labels"]

    def joined(port_name):
        values = {
            "__meta_kubernetes_pod_container_port_name": port_name,
            **{
                f"__meta_kubernetes_pod_label_{re.sub(r'[^a-zA-Z0-9]', '_', name)}": value
                for name, value in labels.items()
            },
        }
        return ";".join(values[name] for name in keep["source_labels"])

    kept = [
        port["name"] for port in container(pod)["ports"] if re.fullmatch(keep["regex"], joined(port["name"]))
    ]
    assert keep["action"] == "keep" and kept == ["bonfire"]


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: apt-get install prometheus)"
)
@pytest.mark.parametrize("name", SCRAPING)
def test_promtool_accepts_every_configuration(name):
    done = subprocess.run(
        ["promtool", "check", "config", FOLDER / name], capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    if "kubernetes_sd_configs not found" in said:
        pytest.skip("this promtool is built without Kubernetes, as Debian's is; the project's own has it")
    assert done.returncode == 0, said

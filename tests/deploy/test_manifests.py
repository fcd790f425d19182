"""The manifests and the image: valid by KubeRay's own schema, and in agreement with each other and with the code."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

from cluster.config.parse import load_config
from cluster.fleet.nodes import HUNG_WORKER_SETTINGS, NODE_LOSS_SETTINGS
from tests.shared.paths import FIXTURES, ROOT

JOB = ROOT / "deploy" / "kuberay" / "job"
SCHEMA = json.loads((FIXTURES / "kuberay" / "rayjob.schema.json").read_text())
CLUSTER_SCHEMA = {**SCHEMA["properties"]["rayClusterSpec"], "$defs": SCHEMA["$defs"]}
INGRESS_SCHEMA = {"$ref": "#/$defs/ingressRules", "$defs": SCHEMA["$defs"]}
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def faults(value, schema=SCHEMA):
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(value)]


def manifest(name):
    return yaml.safe_load((JOB / name).read_text())


@pytest.fixture
def job():
    return copy.deepcopy(manifest("rayjob.yaml")["spec"])


@pytest.fixture
def cluster(job):
    return job["rayClusterSpec"]


@pytest.fixture
def groups(cluster):
    return {group["groupName"]: group for group in cluster["workerGroupSpecs"]}


@pytest.fixture
def pods(job, cluster, groups):
    """Name -> pod template."""
    return {
        "submitter": job["submitterPodTemplate"],
        "head": cluster["headGroupSpec"]["template"],
        **{name: group["template"] for name, group in groups.items()},
    }


@pytest.fixture
def config():
    return load_config(JOB / "run.toml")


def container(pod):
    (only,) = pod["spec"]["containers"]
    return only


def test_the_job_is_valid_by_kuberays_schema(job):
    assert faults(job) == []


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        (("rayClusterSpec", "workerGroupSpecs", 0), "replicas", "replica"),
        (("rayClusterSpec",), "enableInTreeAutoscaling", "enableAutoscaling"),
        (("rayClusterSpec", "autoscalerOptions"), "idleTimeoutSeconds", "idleTimeout"),
        (("rayClusterSpec", "headGroupSpec"), "rayStartParams", "rayStartParam"),
        (("rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0), "volumeMounts", "volumeMount"),
        (("rayClusterSpec", "workerGroupSpecs", 2, "template", "spec"), "securityContext", "securityContexts"),
        (("submitterPodTemplate", "spec", "containers", 0, "securityContext"), "capabilities", "capability"),
        ((), "shutdownAfterJobFinishes", "shutdownAfterJobFinish"),
    ],
)  # fmt: skip
def test_a_misspelt_field_is_found(job, path, old, new):
    node = job
    for step in path:
        node = node[step]
    node[new] = node.pop(old)
    assert any(f"{new!r} was unexpected" in fault for fault in faults(job))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("rayClusterSpec", "workerGroupSpecs", 1, "maxReplicas"), "16"),
        (("rayClusterSpec", "authOptions", "mode"), "tokens"),
        (("rayClusterSpec", "autoscalerOptions", "version"), "v3"),
        (("rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0, "resources", "limits", "cpu"), "4 cores"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_found(job, path, value):
    *parents, last = path
    node = job
    for step in parents:
        node = node[step]
    assert node[last] != value
    node[last] = value
    assert len(faults(job)) == 1


def test_kuberays_rules_that_no_schema_states_are_kept(job, cluster, groups):
    """Those of ValidateRayJobSpec and ValidateRayClusterSpec in KubeRay 1.7.0 that concern this manifest."""
    name = manifest("rayjob.yaml")["metadata"]["name"]
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) and len(name) <= 47
    assert job["shutdownAfterJobFinishes"]  # ttlSecondsAfterFinished and backoffLimit need it
    assert cluster["authOptions"]["mode"] == "token" and cluster["rayVersion"] >= "2.52.0"
    for group in (cluster["headGroupSpec"], *groups.values()):
        assert "restartPolicy" not in group["template"]["spec"]  # autoscaler v2 makes new pods instead
        assert "labels" not in group["rayStartParams"]
        assert not (group.get("resources") and group["rayStartParams"])
    for group in groups.values():
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_rays_autoscaler_reads_the_groups_as_meant(cluster):
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    custom_resource = {"metadata": {"name": "bonfire", "namespace": "default"}, "spec": cluster}
    types = _derive_autoscaling_config_from_ray_cr(custom_resource)["available_node_types"]
    offered = {name: dict(about["resources"]) for name, about in types.items()}
    memory = {name: resources.pop("memory") for name, resources in offered.items()}
    assert offered == {
        "headgroup": {"CPU": 0},
        "learner": {"CPU": 4, "GPU": 1, "learner": 1},
        "rollout": {"CPU": 4, "GPU": 1, "rollout": 1},
        "verifier": {"CPU": 8, "verifier": 8},
    }
    assert memory["learner"] == 32 << 30
    limits = {name: (about["min_workers"], about["max_workers"]) for name, about in types.items()}
    assert limits == {"headgroup": (0, 0), "learner": (1, 1), "rollout": (1, 16), "verifier": (1, 64)}


@pytest.mark.parametrize("role", ["learner", "rollout", "verifier"])
def test_a_worker_fits_a_pod_of_its_group_and_no_other(config, groups, role):
    section = getattr(config, role)
    assert section.resources == {role: 1}
    limits = container(groups[role]["template"])["resources"]["limits"]
    in_a_pod = int(groups[role]["resources"][role])
    assert in_a_pod * section.num_cpus <= float(limits["cpu"])
    assert in_a_pod * section.num_gpus <= float(limits.get("nvidia.com/gpu", 0))
    assert getattr(section, "workers", 1) <= in_a_pod * groups[role]["maxReplicas"]
    assert [name for name, group in groups.items() if role in group["resources"]] == [role]


def test_every_image_is_the_one_that_the_kustomization_names(pods):
    images = manifest("kustomization.yaml")["images"]
    assert (
        {container(pod)["image"] for pod in pods.values()}
        == {image["name"] for image in images}
        == {"bonfire"}
    )


def test_the_pods_run_the_pinned_ray(cluster):
    version = cluster["rayVersion"]
    assert f"ray[default]=={version}" in PROJECT["project"]["dependencies"]
    assert re.search(
        rf"^ray(\[default\])?=={re.escape(version)}$",
        (ROOT / "requirements-cpu.lock").read_text(),
        re.MULTILINE,
    )


def test_what_the_job_runs_lies_in_the_config_map_that_every_pod_mounts(job, pods):
    (generator,) = manifest("kustomization.yaml")["configMapGenerator"]
    assert generator["name"] == "bonfire-run"
    assert all((JOB / name).is_file() for name in generator["files"])
    words = job["entrypoint"].split()
    settings, run_dir = words[2], words[-3].removeprefix("run_dir=")
    assert Path(settings).name in generator["files"]
    claim = manifest("storage.yaml")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for name, pod in pods.items():
        if name == "submitter":
            continue
        mounts = {mount["name"]: mount["mountPath"] for mount in container(pod)["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        assert volumes["config"]["configMap"]["name"] == generator["name"]
        assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert mounts["config"] == str(Path(settings).parent)
        assert Path(run_dir).is_relative_to(mounts["shared"])


def test_a_job_that_is_started_again_goes_on(job):
    """Whether the run is there already is the command's own question."""
    assert job["entrypoint"].split()[:5] == ["bonfire", "train", "/config/run.toml", "--resume", "auto"]
    assert job["entrypoint"].split()[-2:] == ["--address", "auto"] and job["backoffLimit"] > 0


def test_every_pod_is_without_privileges_and_only_the_sandbox_is_unconfined(pods, cluster):
    unconfined = set()
    for name, pod in pods.items():
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        security = container(pod)["securityContext"]
        assert security["allowPrivilegeEscalation"] is False and security["capabilities"] == {"drop": ["ALL"]}
        if security.get("seccompProfile", {}).get("type") == "Unconfined":
            unconfined.add(name)
        if name != "head":  # the autoscaler beside it asks the cluster for pods
            assert pod["spec"]["automountServiceAccountToken"] is False
    assert unconfined == {"verifier"}
    assert cluster["autoscalerOptions"]["securityContext"]["allowPrivilegeEscalation"] is False
    uid = pods["head"]["spec"]["securityContext"]["runAsUser"]
    assert f"USER {uid}:" in DOCKERFILE and f"--uid {uid} " in DOCKERFILE


def test_pods_with_a_gpu_request_what_they_are_limited_to(pods):
    with_gpu = {name: container(pod)["resources"] for name, pod in pods.items()}
    with_gpu = {name: each for name, each in with_gpu.items() if "nvidia.com/gpu" in each["limits"]}
    assert set(with_gpu) == {"learner", "rollout"}
    assert all(each["requests"] == each["limits"] for each in with_gpu.values())


def test_a_pod_outlives_the_stop_of_the_run_in_it(job, pods):
    stop_s = int(yaml.safe_load(job["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"])
    from actors.worker import RolloutWorker
    from cluster.run.controller import Controller
    from learner.worker import LearnerWorker
    from verifiers.worker import VerifierWorker

    actors = [
        cls.__ray_metadata__.class_name for cls in (Controller, LearnerWorker, RolloutWorker, VerifierWorker)
    ]
    for name in ("head", "learner", "rollout", "verifier"):
        assert pods[name]["spec"]["terminationGracePeriodSeconds"] > stop_s
        *_, script = container(pods[name])["lifecycle"]["preStop"]["exec"]["command"]
        pattern = re.search(r"pgrep -f '(.*)'", script)[1]
        assert all(re.search(pattern, f"ray::{actor}") for actor in actors)
        assert not re.search(pattern, "ray::DashboardAgent")


def test_prometheus_alone_reaches_the_metrics(config, pods):
    ports = {port["name"]: port["containerPort"] for port in container(pods["head"])["ports"]}
    assert ports["bonfire"] == config.metrics.port and config.metrics.host == "0.0.0.0"
    (endpoint,) = manifest("podmonitor.yaml")["spec"]["podMetricsEndpoints"]
    selected = manifest("podmonitor.yaml")["spec"]["selector"]["matchLabels"]
    assert endpoint["port"] == "bonfire" and selected == pods["head"]["metadata"]["labels"]
    policy = manifest("network.yaml")["spec"]
    assert faults(policy["ingress"], INGRESS_SCHEMA) == []
    for pod in pods.values():
        assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    among_themselves, *from_outside = policy["ingress"]
    assert among_themselves == {"from": [{"podSelector": policy["podSelector"]}]}
    (allowed,) = [rule for rule in from_outside if {"port": config.metrics.port} in rule["ports"]]
    (peer,) = allowed["from"]
    assert set(peer) == {"namespaceSelector", "podSelector"}


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
@pytest.mark.parametrize(("name", "kind"), [("job", "RayJob"), ("cluster", "RayCluster")])
def test_kubectl_renders_what_the_schema_accepts(name, kind):
    command = ["kubectl", "kustomize", str(JOB.parent / name)]
    rendered = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    objects = {each["kind"]: each for each in yaml.safe_load_all(rendered)}
    assert set(objects) == {kind, "ConfigMap", "NetworkPolicy", "PersistentVolumeClaim"}
    spec = objects[kind]["spec"]
    assert faults(spec, SCHEMA if kind == "RayJob" else CLUSTER_SCHEMA) == []
    (image,) = manifest("kustomization.yaml")["images"]
    assert set(re.findall(r"image: (.*)", rendered)) == {f"{image['newName']}:{image['newTag']}"}
    assert objects["ConfigMap"]["data"]["run.toml"] == (JOB / "run.toml").read_text()


def test_the_image_is_made_of_what_the_project_says():
    packages = [name.rstrip("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]]
    ignored = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text()
    allowed = {line.removeprefix("!") for line in ignored.splitlines() if line.startswith("!")}
    copied = {
        source for line in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.MULTILINE) for source in line.split()
    }
    assert copied == allowed
    assert {*packages, "pyproject.toml", "requirements-cpu.lock"} <= copied
    assert all((ROOT / source).exists() for source in copied)
    (before_sources,) = re.findall(r"for package in (.*?);", DOCKERFILE)
    assert before_sources.split() == packages


def test_the_image_pins_nothing_that_is_pinned_elsewhere():
    instructions = "\n".join(line for line in DOCKERFILE.splitlines() if not line.startswith("#"))
    assert "==" not in instructions
    assert set(re.findall(r"'\.\[(\w+)\]'", instructions)) <= set(PROJECT["project"]["optional-dependencies"])
    python = tuple(map(int, re.search(r"^ARG PYTHON=(.*)$", DOCKERFILE, re.MULTILINE)[1].split(".")))
    lowest = tuple(map(int, PROJECT["project"]["requires-python"].removeprefix(">=").split(".")))
    assert python >= lowest


def test_every_head_notices_a_lost_node_by_the_same_settings(cluster):
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    in_pod = {variable["name"]: variable.get("value") for variable in head["env"]}
    in_shell = dict(re.findall(r"(RAY_health_check_\w+)=(\d+)", (ROOT / "docs" / "cluster.md").read_text()))
    assert NODE_LOSS_SETTINGS == in_shell
    assert NODE_LOSS_SETTINGS.items() <= in_pod.items()


def test_every_node_gives_a_hung_workers_resources_back_by_the_same_setting(cluster):
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        (container,) = group["template"]["spec"]["containers"]
        in_pod = {variable["name"]: variable.get("value") for variable in container["env"]}
        assert HUNG_WORKER_SETTINGS.items() <= in_pod.items()
    ((name, value),) = HUNG_WORKER_SETTINGS.items()
    assert (ROOT / "docs" / "cluster.md").read_text().count(
        f"{name}={value}"
    ) == 2  # by hand, and under systemd

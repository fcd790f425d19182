"""Runs on clusters whose nodes come and go, each in a process of its own: prints what was seen, as JSON.

    python -m tests.shared.clusters {draining,autoscaling,losing} MODEL RUN_DIR

Not in pytest's process: that is connected to the session's cluster already.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil

from cluster.fleet.ray_cluster import set_ray_environment

DEADLINE_S = 60.0
PATIENCE_S = 600.0
STORE_BYTES = 128 << 20
RAY_DIR = Path(tempfile.mkdtemp(prefix="bf", dir="/tmp"))  # Unix sockets want short paths
# 4 CPUs: learner 1, verifier 0.5 and one rollout worker of 2, but not two.
HEAD_CPUS, NODE_CPUS = 4, 2


def prepare_environment() -> None:
    """Before Ray is imported."""
    token = RAY_DIR / "token"
    token.write_text("bonfire-tests-" + os.urandom(16).hex())
    token.chmod(0o600)
    os.environ.update(RAY_TMPDIR=str(RAY_DIR), RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token))
    set_ray_environment(local=True)


@contextmanager
def live_run(
    address: str,
    model: str,
    run_dir: Path,
    *,
    workers: int,
    sections: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    controller: Any = None,
) -> Iterator[Any]:
    """A run on the cluster at `address`, as `tests.shared.live_run.LiveRun`; sections add to its settings."""
    import ray

    from actors.tokens import encode_prompts, load_tokenizer
    from cluster.config.parse import parse_config
    from cluster.run.asked import Asked
    from cluster.run.controller import Controller
    from cluster.run.recovery import Origin
    from tests.shared.live_run import LiveRun
    from verifiers.problems.loading import load_problems

    engine = {"samples_per_prompt": 8, "max_tokens": 8, "max_model_len": 64, "max_num_seqs": 64}
    settings: dict[str, dict[str, Any]] = {
        "problems": {"num_train": 10},
        "rollout": {"workers": workers, "num_cpus": 2, "kv_cache_mib": 16, **engine},
        "verifier": {"num_cpus": 0.5},
        "objective": {"num_select": 4},
        "learner": {"warmup_steps": 1},
        "train": {"steps": 100_000, "groups_per_step": 4, "max_staleness": 1, "checkpoint_every": 1000},
        "metrics": {"port": 0},
    }
    merged = {name: {**section, **sections.get(name, {})} for name, section in settings.items()}
    config = parse_config({"model": model, **merged})
    ray.init(address=address, namespace="tests", log_to_driver=False, logging_level="ERROR")
    problems = load_problems(config.problems, "train")
    prompts = encode_prompts(load_tokenizer(config.model), problems)
    actor = (controller or Controller).remote(config, str(run_dir), problems, prompts, [], Asked(), Origin())
    try:
        yield LiveRun(actor)
    finally:
        ray.kill(actor)
        ray.shutdown()


def alive_nodes() -> set[str]:
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def draining(model: str, run_dir: Path) -> dict[str, Any]:
    """A node too few; one that joins; one more, and the first is drained."""
    from ray.cluster_utils import Cluster

    from tests.shared.live_run import both_sample, serving

    head = {"num_cpus": HEAD_CPUS, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    seen: dict[str, Any] = {}
    try:
        with live_run(cluster.address, model, run_dir, workers=2) as run:
            seen["waiting"] = run.wait_for(
                lambda f: (
                    f["waiting_for"] and f["step"] >= 3 and any("waiting for" in e for e in f["events"])
                ),
                PATIENCE_S,
            )
            first = cluster.add_node(num_cpus=NODE_CPUS, object_store_memory=STORE_BYTES)
            seen["joined"] = run.wait_for(both_sample, PATIENCE_S)
            run.wait_for(lambda facts: facts["step"] >= seen["joined"]["step"] + 3, PATIENCE_S)
            second = cluster.add_node(num_cpus=NODE_CPUS, object_store_memory=STORE_BYTES)
            deadline_s = drain(first.node_id)
            while first.node_id in alive_nodes():
                assert time.time() < deadline_s + 30, "the node is not left"
                time.sleep(0.1)
            seen["gone_before_deadline_s"] = deadline_s - time.time()
            seen["moved"] = run.wait_for(lambda f: both_sample(f) and len(serving(f)) == 2, PATIENCE_S)
            run.wait_for(lambda facts: facts["step"] >= seen["moved"]["step"] + 3, PATIENCE_S)
            run.stop()
            seen["end"] = run.finish()
    finally:
        cluster.shutdown()
    return {**seen, "nodes": {"first": first.node_id, "second": second.node_id}}


def drain(node_id: str) -> float:
    """Tell Ray that a node will be taken away, as a cloud's preemption notice does; when, in Unix seconds."""
    import ray
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    deadline_s = time.time() + DEADLINE_S
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    client = ray._private.worker.global_worker.gcs_client
    accepted, why_not = client.drain_node(node_id, reason, "test", int(1e3 * deadline_s))
    assert accepted, why_not
    return deadline_s


def autoscaling(model: str, run_dir: Path) -> dict[str, Any]:
    """Ray's real autoscaler, whose nodes are processes: scaled up and down by the run's own targets."""
    from tests.shared.live_run import both_sample

    seen: dict[str, Any] = {}
    with autoscaled_head() as address, live_run(address, model, run_dir, workers=1) as run:
        seen["one"] = run.wait_for(lambda facts: facts["step"] >= 3, PATIENCE_S)
        seen["nodes_with_one"] = len(alive_nodes())
        run.scale(rollout=2)
        seen["two"] = run.wait_for(both_sample, PATIENCE_S)
        seen["nodes_with_two"] = len(alive_nodes())
        run.scale(rollout=1)
        deadline_s = time.monotonic() + PATIENCE_S
        while len(alive_nodes()) > 1:
            assert time.monotonic() < deadline_s, "the node is kept"
            time.sleep(0.2)
        back = run.facts()
        run.wait_for(lambda facts: facts["step"] >= back["step"] + 3, PATIENCE_S)
        run.stop()
        seen["end"] = run.finish()
    return seen


@contextmanager
def autoscaled_head() -> Iterator[str]:
    """Address of a head node with an autoscaler that starts fake nodes, and removes them when idle for 6 s."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    config = {
        "cluster_name": "tests",
        "max_workers": 2,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.1,
        # Its nodes are processes of one machine: told apart by their ids, and not set up by SSH.
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
        },
        "auth": {},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": HEAD_CPUS}, "node_config": {}, "max_workers": 0},
            "rollout": {
                "resources": {"CPU": NODE_CPUS, "object_store_memory": STORE_BYTES},
                "node_config": {},
                "min_workers": 0,
                "max_workers": 2,
            },
        },
        **{f"{name}_commands": [] for name in commands},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
    }
    path = RAY_DIR / "autoscaling.json"
    path.write_text(json.dumps(config))
    command = [
        Path(sys.executable).with_name("ray"), "start", "--head", "--block", f"--port={address.split(':')[1]}",
        f"--num-cpus={HEAD_CPUS}", f"--object-store-memory={STORE_BYTES}", "--include-dashboard=false",
        f"--autoscaling-config={path}",
    ]  # fmt: skip
    environment = {**os.environ, "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    with (RAY_DIR / "head.log").open("w") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        deadline_s = time.monotonic() + PATIENCE_S
        while "Ray runtime started" not in (RAY_DIR / "head.log").read_text():
            assert head.poll() is None and time.monotonic() < deadline_s, (RAY_DIR / "head.log").read_text()
            time.sleep(0.2)
        yield address
    finally:
        processes = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
        for process in processes:
            process.kill()
        psutil.wait_procs(processes, timeout=30)


def losing(model: str, run_dir: Path) -> dict[str, Any]:
    """The engine's node is killed while groups wait for a verdict; then the engine's process, and then its node and the
    verifier's, while judged groups wait for the learner: a node that has read a batch keeps a copy of it.

    Even small batches are kept by the node that made them, as large ones are.
    """
    import ray
    from ray.cluster_utils import Cluster

    from tests.shared.live_run import scrape, serving

    gates = {name: run_dir / f"{name} is closed" for name in ("verifier", "learner")}
    modules = run_dir / "modules"
    modules.mkdir()
    (modules / "gated_verifiers.py").write_text(GATED_VERIFIER.format(gate=str(gates["verifier"])))
    os.environ["PYTHONPATH"] = f"{modules}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    head = {
        "num_cpus": HEAD_CPUS,
        "include_dashboard": False,
        "object_store_memory": STORE_BYTES,
        "resources": {"trains": 10},
        "_system_config": {"max_direct_call_object_size": 2048, **QUICK_HEALTH_CHECKS},
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    seen: dict[str, Any] = {}

    def add(what: str) -> Any:
        return cluster.add_node(num_cpus=NODE_CPUS, object_store_memory=STORE_BYTES, resources={what: 1})

    def kill(node: Any) -> None:
        cluster.remove_node(node, allow_graceful=False)

    def all_are_scored(facts: dict[str, Any]) -> bool:
        return facts["groups"]["leased"] == 0 and facts["groups"]["buffered"] >= 16

    def discarded() -> float:
        return scrape(run.facts()).get("bonfire_cluster_discarded_groups_total{lost}", 0.0)

    sections = {
        "rollout": {"num_cpus": 1, "resources": {"samples": 1}},
        "verifier": {
            "reward": "gated_verifiers:judge",
            "timeout_s": PATIENCE_S,
            "resources": {"judges": 1},
        },
        "learner": {"resources": {"trains": 1}},
        "train": {"groups_per_step": 16, "parts_per_step": 2},
    }
    controller = gated_controller(gates["learner"])
    try:
        samples, judges = add("samples"), add("judges")
        with live_run(
            cluster.address, model, run_dir, workers=1, sections=sections, controller=controller
        ) as run:
            seen["begun"] = run.wait_for(lambda facts: facts["step"] >= 2, PATIENCE_S)

            gates["verifier"].touch()
            seen["waiting"] = run.wait_for(
                lambda f: (
                    f["verifier_queue"] > 8
                    and [worker.get("groups_in_flight") for worker in serving(f)] == [0]
                ),
                PATIENCE_S,
            )
            kill(samples)
            samples = add("samples")
            now = run.wait_for(lambda facts: facts["restarts"]["rollout"] == 1, PATIENCE_S)
            gates["verifier"].unlink()
            seen["judged_again"] = run.wait_for(lambda f: f["step"] >= now["step"] + 3, PATIENCE_S)
            before = seen["lost_unjudged"] = discarded()

            gates["learner"].touch()
            seen["before_death"] = run.wait_for(all_are_scored, PATIENCE_S)
            os.kill(serving(seen["before_death"])[0]["pid"], signal.SIGKILL)
            run.wait_for(lambda facts: facts["restarts"]["rollout"] == 2, PATIENCE_S)
            gates["learner"].unlink()
            run.wait_for(lambda f: f["step"] >= seen["before_death"]["step"] + 3, PATIENCE_S)
            seen["lost_with_a_process"] = discarded() - before

            gates["learner"].touch()
            seen["scored"] = run.wait_for(all_are_scored, PATIENCE_S)
            seen["num_begun"] = ray.get(run._controller.num_begun.remote())
            kill(samples)
            kill(judges)
            add("samples"), add("judges")
            run.wait_for(lambda facts: facts["restarts"]["rollout"] == 3, PATIENCE_S)
            gates["learner"].unlink()
            seen["trained_again"] = run.wait_for(
                lambda f: f["step"] >= seen["scored"]["step"] + 3, PATIENCE_S
            )
            seen["lost_scored"] = discarded() - before
            run.stop()
            seen["end"] = run.finish()
    finally:
        cluster.shutdown()
    return seen


GATED_VERIFIER = """
import os, time

def judge(problem, completion):
    while os.path.exists({gate!r}):
        time.sleep(0.05)
    return sum(map(ord, completion)) % 97 / 97
"""
QUICK_HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 2,
}


def gated_controller(gate: Path) -> Any:
    """A controller whose learner fetches nothing while there is a file `gate`."""
    import asyncio

    import ray

    from cluster.run.controller import Controller

    class Gated(Controller.__ray_metadata__.modified_class):  # type: ignore[attr-defined, misc]
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            fetch = self._learner.fetch

            async def fetch_later(groups: Any) -> None:
                while gate.exists():
                    await asyncio.sleep(0.05)
                await fetch(groups)

            self._learner.fetch = fetch_later

        def num_begun(self) -> int:
            return len(self._ledger.begun)

    return ray.remote(Gated).options(resources={"trains": 1})


SCENARIOS = {"draining": draining, "autoscaling": autoscaling, "losing": losing}

if __name__ == "__main__":
    try:
        prepare_environment()
        scenario, model, run_dir = sys.argv[1:]
        print(json.dumps(SCENARIOS[scenario](model, Path(run_dir))))
    finally:
        shutil.rmtree(RAY_DIR, ignore_errors=True)

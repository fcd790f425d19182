"""A run on a cluster whose nodes come and go, in a process of its own: prints what was seen, as JSON.

    python -m tests.draining MODEL RUN_DIR

Not in pytest's process: that is connected to the session's cluster already.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cluster.launch import set_ray_environment

DEADLINE_S = 60.0
RAY_DIR = Path(tempfile.mkdtemp(prefix="bf", dir="/tmp"))  # Unix sockets want short paths


def prepare_environment() -> None:
    """Before Ray is imported."""
    token = RAY_DIR / "token"
    token.write_text("bonfire-tests-" + os.urandom(16).hex())
    token.chmod(0o600)
    os.environ.update(RAY_TMPDIR=str(RAY_DIR), RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token))
    set_ray_environment(local=True)


def main(model: str, run_dir: Path) -> dict[str, Any]:
    import ray
    from ray.cluster_utils import Cluster

    # 4 CPUs: learner 1 and one rollout worker of 2, but not two.
    head = {"num_cpus": 4, "include_dashboard": False, "object_store_memory": 128 << 20}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        ray.init(address=cluster.address, namespace="tests", log_to_driver=False, logging_level="ERROR")
        return scenario(cluster, model, run_dir)
    finally:
        ray.shutdown()
        cluster.shutdown()


def scenario(cluster: Any, model: str, run_dir: Path) -> dict[str, Any]:
    import ray

    from actors.tokens import encode_prompts, load_tokenizer
    from cluster.config import parse_config
    from cluster.controller import Controller
    from tests.test_loop import LiveRun, both_sample, serving
    from verifiers.problems import load_problems

    config = parse_config(
        {
            "model": model,
            "problems": {"num_train": 10},
            "rollout": {
                "workers": 2, "num_cpus": 2, "samples_per_prompt": 8, "max_tokens": 8, "max_model_len": 64,
                "max_num_seqs": 64, "kv_cache_mib": 16,
            },
            "verifier": {"num_cpus": 0.5},
            "objective": {"num_select": 4},
            "learner": {"warmup_steps": 1},
            "train": {"steps": 100_000, "groups_per_step": 4, "max_staleness": 1, "checkpoint_every": 1000},
            "metrics": {"port": 0},
        }
    )  # fmt: skip
    problems = load_problems(config.problems, "train")
    prompts = encode_prompts(load_tokenizer(config.model), problems)
    controller = Controller.remote(config, str(run_dir), problems, prompts, [], None)
    run = LiveRun(controller)
    seen: dict[str, Any] = {}

    seen["waiting"] = run.wait_for(lambda facts: facts["waiting_for"] and facts["step"] >= 3)
    first = cluster.add_node(num_cpus=2, object_store_memory=128 << 20)
    seen["joined"] = run.wait_for(both_sample)
    run.wait_for(lambda facts: facts["step"] >= seen["joined"]["step"] + 3)
    second = cluster.add_node(num_cpus=2, object_store_memory=128 << 20)

    deadline_s = drain(first.node_id)
    while first.node_id in {node["NodeID"] for node in ray.nodes() if node["Alive"]}:
        assert time.time() < deadline_s + 30, "the node is not left"
        time.sleep(0.1)
    seen["gone_before_deadline_s"] = deadline_s - time.time()
    seen["moved"] = run.wait_for(lambda facts: both_sample(facts) and len(serving(facts)) == 2)
    run.wait_for(lambda facts: facts["step"] >= seen["moved"]["step"] + 3)
    run.stop()
    seen["end"] = run.finish()
    seen["nodes"] = {"first": first.node_id, "second": second.node_id}
    ray.kill(controller)
    return seen


def drain(node_id: str) -> float:
    """Tell Ray that a node will be taken away, as a cloud's preemption notice does; when, in Unix seconds."""
    import ray
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    deadline_s = time.time() + DEADLINE_S
    accepted, why_not = ray._private.worker.global_worker.gcs_client.drain_node(
        node_id,
        DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"),
        "test",
        int(1e3 * deadline_s),
    )
    assert accepted, why_not
    return deadline_s


if __name__ == "__main__":
    try:
        prepare_environment()
        print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
    finally:
        shutil.rmtree(RAY_DIR, ignore_errors=True)

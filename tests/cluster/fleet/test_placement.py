"""A run on four nodes that `ray start` made: every worker is on a node that offers its role's resource."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.shared.user_cluster import free_ports

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
START_TIMEOUT_S = 60.0
RUN_TIMEOUT_S = 200.0


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """A token of its own, and short paths for Unix sockets."""
    directory = Path(tempfile.mkdtemp(prefix="bf", dir="/tmp"))
    (directory / "token").write_text(secrets.token_hex(32))
    yield {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(directory / "token"),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # the other tests' cluster is kept on the loopback interface
        "RAY_TMPDIR": str(directory),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def start_node(environment) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts `ray start --block` with more arguments; ends all nodes, newest first, and all they started."""
    nodes: list[subprocess.Popen] = []

    def start(*arguments: str) -> subprocess.Popen:
        log = Path(environment["RAY_TMPDIR"], f"node-{len(nodes)}.log")
        common = ["--block", "--node-ip-address=127.0.0.1", "--dashboard-agent-listen-port=0"]
        with log.open("w") as out:
            command = [str(BIN / "ray"), "start", *common, *arguments]
            node = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
        nodes.append(node)
        deadline = time.monotonic() + START_TIMEOUT_S
        while "block forever" not in log.read_text():
            assert node.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        return node

    yield start
    for node in reversed([node for node in nodes if node.poll() is None]):
        children = psutil.Process(node.pid).children(recursive=True)
        node.send_signal(signal.SIGTERM)
        node.wait(timeout=60)
        _, left = psutil.wait_procs(children, timeout=20)
        assert not left


def node_of(process: psutil.Process, nodes: dict[str, subprocess.Popen]) -> str:
    ancestors = {parent.pid for parent in process.parents()}
    (name,) = [name for name, node in nodes.items() if node.pid in ancestors]
    return name


def actors(nodes: dict[str, subprocess.Popen]) -> dict[str, set[str]]:
    """Actor's class -> names of the nodes whose processes hold one."""
    found: dict[str, set[str]] = {}
    for node in nodes.values():
        for process in psutil.Process(node.pid).children(recursive=True):
            try:
                title = " ".join(process.cmdline())
                if name := re.match(r"ray::(Controller|\w+Worker)\b", title):
                    found.setdefault(name[1], set()).add(node_of(process, nodes))
            except psutil.NoSuchProcess:
                continue
    return found


def test_workers_run_on_the_nodes_that_offer_their_resource(start_node, environment, tiny_model, tmp_path):
    port, client_port = free_ports(2)
    ports = [f"--port={port}", f"--ray-client-server-port={client_port}", "--include-dashboard=false"]
    nodes = {"head": start_node("--head", *ports, "--num-cpus=0", '--resources={"verifier": 1}')}
    address = f"127.0.0.1:{port}"
    for name, resource in [("learner", "learner"), ("first", "rollout"), ("second", "rollout")]:
        offered = f'--resources={{"{resource}": 1}}'
        nodes[name] = start_node(f"--address={address}", "--num-cpus=2", offered)
    run_dir = tmp_path / "run"
    config = {
        "model": f'"{tiny_model}"',
        "run_dir": f'"{run_dir}"',
        "verifier.resources": "{verifier=1}",
        "rollout.resources": "{rollout=1}",
        "rollout.workers": 2,
        "learner.resources": "{learner=1}",
        "rollout.samples_per_prompt": 8,
        "rollout.max_tokens": 12,
        "rollout.max_model_len": 96,
        "rollout.kv_cache_mib": 16,
        "objective.num_select": 4,
        "train.groups_per_step": 4,
        "train.steps": 5,
        "metrics.port": 0,
    }
    settings = tmp_path / "run.toml"
    settings.write_text("[problems]\nnum_train = 20\n")
    overrides = [f"{path}={value}" for path, value in config.items()]
    command = [str(BIN / "bonfire"), "train", str(settings), "--address", address, *overrides]
    seen: dict[str, set[str]] = {}
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + RUN_TIMEOUT_S
        while run.poll() is None:
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            for role, names in actors(nodes).items():
                seen[role] = seen.get(role, set()) | names
            time.sleep(0.2)
    assert run.returncode == 0, (tmp_path / "log").read_text()
    assert len((run_dir / "metrics.jsonl").read_text().splitlines()) == 5
    assert json.loads((run_dir / "run.json").read_text())["local"] is False
    assert seen == {
        "Controller": {"head"},
        "VerifierWorker": {"head"},
        "RolloutWorker": {"first", "second"},
        "LearnerWorker": {"learner"},
    }

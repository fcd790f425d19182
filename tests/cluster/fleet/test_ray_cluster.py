"""Ray as a command starts or joins it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cluster.fleet.ray_cluster import quiet_stderr, set_ray_environment
from tests.shared.paths import ROOT

SIGNALLED = """
import os, signal, sys, time
from cluster.config.parse import parse_config
from cluster.fleet.ray_cluster import start_ray
from cluster.terminal.interrupts import interrupts
import ray._private.worker as worker
config = parse_config({"model": sys.argv[1]})
connect = worker.connect

def connect_and_signal(*arguments, **options):
    connect(*arguments, **options)  # from here on Ray's C++ side hears SIGTERM first
    os.kill(os.getpid(), signal.SIGTERM)

worker.connect = connect_and_signal
with interrupts() as received:
    start_ray(config, namespace="signalled", publishes=False)
    time.sleep(5)
    print(received, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
"""
"""`interrupts` raises at the second signal, which is sent after the start."""

GROUP_SIGNALLED = """
import os, signal, sys, time
from cluster.config.parse import parse_config
from cluster.fleet.ray_cluster import start_ray
from cluster.terminal.interrupts import interrupts
import ray

@ray.remote(num_cpus=0)
class Learner:
    def checkpoint(self):
        return "saved"

with interrupts() as received:
    start_ray(parse_config({"model": sys.argv[1]}), namespace="signalled", publishes=False)
    learner = Learner.remote()
    ray.get(learner.checkpoint.remote())
    os.killpg(0, signal.SIGTERM)
    time.sleep(2)
    print(received, ray.get(learner.checkpoint.remote(), timeout=30), flush=True)
"""


def test_a_token_file_that_is_not_there_is_named_before_ray_starts(tmp_path, monkeypatch):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(ValueError, match="RAY_AUTH_TOKEN_PATH = '.*/token' is no file: "):
        set_ray_environment(local=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    set_ray_environment(local=False)


def test_what_ray_writes_while_a_cluster_is_joined_is_not_shown(capfd):
    with quiet_stderr():
        os.write(2, b"gcs_client.cc: Failed to get cluster ID")
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


@pytest.mark.slow
@pytest.mark.cluster
def test_a_signal_in_the_midst_of_rays_start_is_collected_and_does_not_abort_the_process(tiny_model):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SIGNALLED, str(tiny_model)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)
    assert (done.returncode, done.stdout) == (1, "[15]\n")
    assert done.stderr.splitlines()[-1].startswith("cluster.terminal.interrupts.Interrupted: ended at once")
    assert done.stderr.count("*** SIGTERM received") == 2, "the first one, twice as Ray's C++ side writes it"


@pytest.mark.slow
@pytest.mark.cluster
def test_a_signal_to_the_commands_process_group_leaves_its_ray_for_the_last_checkpoint(tiny_model):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", GROUP_SIGNALLED, str(tiny_model)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=environment,
        timeout=240,
        check=False,
        start_new_session=True,
    )
    assert (done.returncode, done.stdout) == (0, "[15] saved\n"), done.stderr

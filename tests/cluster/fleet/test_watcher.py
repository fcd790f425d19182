"""Nothing outlives a driver: what it started ends within ten seconds, also when nobody is left to end it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.shared.paths import ROOT

WITHIN_S = 10.0
DRIVER = """
import os, subprocess, sys, time
from cluster.fleet.watcher import watch_this_process
watch_this_process()
watch_this_process()  # a second cluster of one process has the same watcher
sleep = [sys.executable, "-c", "import time; time.sleep(300)"]
child = subprocess.Popen(sleep)
apart = subprocess.Popen(sleep, start_new_session=True)
# An orphan: its parent is gone before anybody can have looked.
orphan = subprocess.run(
    [sys.executable, "-c", "import subprocess, sys; print(subprocess.Popen("
     f"{sleep!r}, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)"],
    capture_output=True, text=True).stdout
print(child.pid, apart.pid, orphan, flush=True)
time.sleep(300)
"""
RAY_DRIVER = """
import os, signal, sys, time
import ray
from cluster.config.parse import parse_config
from cluster.fleet.ray_cluster import start_ray
start_ray(parse_config({"model": sys.argv[1]}), namespace="watched", publishes=False)
@ray.remote(num_cpus=0)
class Worker:
    def pid(self):
        return os.getpid()
worker = Worker.remote()
pid = ray.get(worker.pid.remote())
os.kill(pid, signal.SIGSTOP)
print(pid, flush=True)
time.sleep(300)
"""


def start(code: str, *arguments: object) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A driver in a session of its own, and the processes that it names on its first line."""
    driver = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
    )
    assert driver.stdout is not None
    named = [psutil.Process(int(pid)) for pid in driver.stdout.readline().split()]
    return driver, named


def wait_until_it_waits(process: psutil.Process) -> None:
    """Until it has started, and has nothing to do."""
    deadline_s = time.monotonic() + 60
    before = None
    while (now := process.cpu_times()[:2]) != before or not sum(now):
        assert time.monotonic() < deadline_s
        before = now
        time.sleep(0.5)


def wait_until_gone(processes: list[psutil.Process]) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while left := [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]:
        if time.monotonic() > deadline_s:
            for one in left:
                one.kill()
            pytest.fail(f"alive {WITHIN_S:g} s after the driver: {left}")
        time.sleep(0.05)


def test_what_a_driver_started_ends_with_its_process_group_and_what_others_started_does_not() -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    driver, named = start(DRIVER)
    assert len(named) == 3
    descendants = psutil.Process(driver.pid).children(recursive=True)
    [watcher] = [one for one in descendants if "cluster.fleet.watcher" in one.cmdline()]
    wait_until_it_waits(watcher)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    wait_until_gone([*named, *descendants])
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


@pytest.mark.slow
@pytest.mark.cluster
def test_a_private_cluster_leaves_nothing_behind_though_its_driver_is_killed_and_a_worker_stands_still(
    tiny_model: Path,
) -> None:
    """Without the watcher two of Ray's own agents outlive it by more than 20 s."""
    driver, named = start(RAY_DRIVER, tiny_model)
    assert len(named) == 1
    descendants = psutil.Process(driver.pid).children(recursive=True)
    assert len(descendants) > 5
    driver.kill()
    driver.wait()
    wait_until_gone([*named, *descendants])

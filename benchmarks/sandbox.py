"""Verdicts per second of the code verifier, their latency, and what each layer of the sandbox costs.

.venv/bin/python -m benchmarks.sandbox > benchmarks/results/sandbox.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import asdict

import numpy as np
import psutil

from verifiers.programs.config import PythonTestsConfig
from verifiers.programs.python_tests import PythonTests
from verifiers.sandbox.command import ENVIRONMENT, isolated_command
from verifiers.sandbox.kernel import Limits
from verifiers.types import Problem

TIMEOUT_S = 60.0
"""Far more than anything here takes, so that a busy machine shows in the latency and not as time-outs."""

PROMPT = '''from typing import List


def longest_run(numbers: List[int]) -> List[int]:
    """ The longest run of consecutive elements that do not decrease; the first of several.
    >>> longest_run([3, 1, 2, 2, 0])
    [1, 2, 2]
    """
'''
TEST = """

METADATA = {
    'author': 'bonfire',
    'dataset': 'test'
}


def check(candidate):
    assert candidate([]) == []
    assert candidate([5]) == [5]
    assert candidate([3, 1, 2, 2, 0]) == [1, 2, 2]
    assert candidate([1, 2, 3, 4]) == [1, 2, 3, 4]
    assert candidate([4, 3, 2, 1]) == [4]
    assert candidate([1, 5, 2, 6, 3, 7]) == [1, 5]
    assert candidate([0, 0, 0, -1, 0]) == [0, 0, 0]
    assert candidate([9, 1, 2, 8, 1, 2, 3, 9, 4]) == [1, 2, 3, 9]
"""
SOLUTION = """    best, run = [], []
    for number in numbers:
        run = run + [number] if run and number >= run[-1] else [number]
        if len(run) > len(best):
            best = run
    return best
"""
CANDIDATES = {
    SOLUTION: 1.0,
    SOLUTION.replace(">= run", "> run"): 0.0,
    SOLUTION.replace("> len(best)", ">= len(best)"): 0.0,
    "    return sorted(numbers)\n": 0.0,
}
"""Completions of the size and kind of HumanEval's, with their rewards."""
PROBLEM = Problem(
    id="run", prompt=PROMPT, truth={"prompt": PROMPT, "entry_point": "longest_run", "test": TEST}
)
LIMITS = Limits(memory_bytes=256 << 20, max_processes=8, file_bytes=16 << 20, reply_bytes=1 << 20, cpu_s=60)

LAYERS = (
    "fork, exit, wait",
    "+ PID namespace",
    "+ mount and IPC namespaces, tmpfs",
    "+ user namespace",
    "+ resource limits",
    "+ no capabilities, no_new_privs, system call filter",
)
LAYERS_PROGRAM = f"""
import gc, json, os, sys, time
sys.path.insert(0, "/bonfire")
from verifiers.sandbox.kernel import *
from verifiers.sandbox.zygote import SCRATCH
myself = os.pidfd_open(os.getpid())
steps = [
    lambda: unshare(CLONE_NEWNS | CLONE_NEWIPC) or mount("none", SCRATCH, "tmpfs", MS_NOSUID, "size=1m"),
    lambda: unshare(CLONE_NEWUSER),
    lambda: set_limits(Limits(**{asdict(LIMITS)!r}), count_processes=True),
    give_up_privileges,
]
def run_child(level):
    if level:
        unshare(CLONE_NEWPID)
    pid = os.fork()
    if not pid:
        for step in steps[:max(0, level - 1)]:
            step()
        os._exit(0)
    if level:
        set_namespace(myself, CLONE_NEWPID)
    assert os.waitpid(pid, 0)[1] == 0
def mean_ms(level, repeats=50):
    start = time.perf_counter()
    for _ in range(repeats):
        run_child(level)
    return 1e3 * (time.perf_counter() - start) / repeats
gc.collect()
gc.freeze()
rounds = [[mean_ms(level) for level in range({len(LAYERS)})] for _ in range(5)]
os.write(1, json.dumps([min(column) for column in zip(*rounds)]).encode())
"""


def layers_ms() -> dict[str, float]:
    """A child that isolates itself and does nothing else: cumulative, the least of five rounds, inside bubblewrap."""
    command = [*isolated_command(LIMITS)[:-1], LAYERS_PROGRAM]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=ENVIRONMENT, cwd="/", check=True
    )
    return {name: round(value, 3) for name, value in zip(LAYERS, json.loads(done.stdout), strict=True)}


def cold_start_ms(repeats: int = 7) -> dict[str, float]:
    """What a candidate would wait for without the warm interpreter: median of processes that do nothing."""
    isolated = isolated_command(LIMITS)
    python = isolated[isolated.index("--") + 1 :]
    libraries = "import sys; sys.path.insert(0, '/bonfire'); import verifiers.sandbox.zygote"
    commands = {
        "python": [*python[:-1], "pass"],
        "bubblewrap, python": [*isolated[:-1], "pass"],
        "bubblewrap, python, the imports of the zygote": [*isolated[:-1], libraries],
    }
    return {name: round(_median_run_ms(command, repeats), 1) for name, command in commands.items()}


def _median_run_ms(command: list[str], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run(command, stdin=subprocess.DEVNULL, env=ENVIRONMENT, cwd="/", check=True)
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times)


def throughput(num_sandboxes: int, seconds: float, *, trusted: bool = False) -> dict[str, float]:
    """Verdicts of that many verifiers at work side by side, each with its own sandbox and its own thread."""
    config = PythonTestsConfig(trusted_candidates=trusted)
    verifiers = [PythonTests(config, timeout_s=TIMEOUT_S) for _ in range(num_sandboxes)]
    latencies_s: list[float] = []
    cpu_before_s = _cpu_s()
    started = time.perf_counter()

    def judge(verifier: PythonTests) -> None:
        while time.perf_counter() - started < seconds:
            for completion, reward in CANDIDATES.items():
                since = time.perf_counter()
                assert verifier.verify(PROBLEM, completion).reward == reward
                latencies_s.append(time.perf_counter() - since)

    threads = [threading.Thread(target=judge, args=(verifier,)) for verifier in verifiers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed_s = time.perf_counter() - started
    cpu_s = _cpu_s() - cpu_before_s
    for verifier in verifiers:
        verifier.close()
    p50, p95, p99 = np.percentile(latencies_s, [50, 95, 99]) * 1e3
    return {
        "verdicts": len(latencies_s),
        "verdicts_per_s": round(len(latencies_s) / elapsed_s, 1),
        "cpu_ms_per_verdict": round(1e3 * cpu_s / len(latencies_s), 2),
        "p50_ms": round(float(p50), 2),
        "p95_ms": round(float(p95), 2),
        "p99_ms": round(float(p99), 2),
    }


def _cpu_s() -> float:
    """CPU time of this process, its descendants, and the children that they have waited for."""
    times = [
        process.cpu_times() for process in [psutil.Process(), *psutil.Process().children(recursive=True)]
    ]
    own = psutil.Process().cpu_times()
    # This process's children are only those that it has ended itself, and they are no part of what is measured.
    return sum(sum(part[:4]) for part in times) - own.children_user - own.children_system


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="for each throughput")
    seconds = parser.parse_args().seconds
    started = time.perf_counter()
    PythonTests(PythonTestsConfig(), timeout_s=TIMEOUT_S).close()
    start_s = time.perf_counter() - started
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, "
        f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f} at the start",
        "candidate": f"{len(PROMPT) + len(SOLUTION)} characters, {TEST.count('assert')} calls",
        "one_sandbox": throughput(1, seconds),
        "two_sandboxes": throughput(2, seconds),
        "one_trusted_without_isolation": throughput(1, seconds, trusted=True),
        "start_of_a_verifier_s": round(start_s, 2),
        "cold_start_ms": cold_start_ms(),
        "layers_ms": layers_ms(),
    }
    json.dump(result, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()

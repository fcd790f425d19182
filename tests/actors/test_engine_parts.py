"""An engine in several processes: what it samples and holds, and what becomes of it when one of them fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest

from tests.shared.architectures import ARCHITECTURES, save
from tests.shared.models_table import check_serving
from tests.shared.paths import ROOT

BY_NAME = {architecture.name: architecture for architecture in ARCHITECTURES}
DENSE, KEYS_TWICE, EXPERTS = "Llama", "Qwen2", "Qwen3-MoE"
"""Heads of keys and values are divided; there is one, which both parts have; experts are divided."""
FAILING = """
import json, os, signal, sys, time
from actors.config import RolloutConfig
from actors.environment import engine_environment
from actors.types import Lease, Piece

if __name__ == "__main__":  # parts are spawned: they import this file
    number = signal.Signals[sys.argv[2]]
    config = RolloutConfig(
        tensor_parallel=2, max_tokens=200, max_model_len=240, kv_cache_mib=64, heartbeat_timeout_s=3, dtype="float32"
    )
    os.environ.update(engine_environment(config))
    from actors.engine import Engine

    engine = Engine(sys.argv[1], config, stop_token_ids=[])
    parts = [worker.proc.pid for worker in engine._llm.engine_core.engine_core.model_executor.workers]
    print(json.dumps(parts), flush=True)
    lease = Lease(piece=Piece(0, 0, 8), problem_id="", prompt_token_ids=(5, 9, 33), seed=0)
    if sys.argv[3] == "part":
        (future,) = engine.sample([lease])
        while not engine.clock.busy_s:  # until a step is over
            time.sleep(0.001)
        os.kill(parts[1], number)
        began_s = time.monotonic()
        try:
            future.result(60)
        except RuntimeError as error:
            print(json.dumps([str(error), time.monotonic() - began_s]), flush=True)
        time.sleep(1)
    else:
        os.kill(parts[1], signal.SIGSTOP)
        os.kill(os.getpid(), number)
"""


@pytest.mark.parametrize(
    "name",
    [
        DENSE,
        *(pytest.param(name, marks=pytest.mark.slow) for name in (KEYS_TWICE, EXPERTS, "Gemma 3", "Phi-3")),
    ],
)
def test_two_parts_sample_from_what_the_learner_has_trained_and_prove_that_they_hold_it(name, tmp_path):
    architecture = replace(
        BY_NAME[name], engine={**BY_NAME[name].engine, "tensor_parallel": 2, "num_cpus": 2}
    )
    check_serving(architecture, save(architecture, tmp_path / "base"), tmp_path)


def run(directory, signal, whom):
    """Process ids of the parts, and what else was printed."""
    script = directory / "failing.py"
    script.write_text(FAILING)
    model = save(BY_NAME[DENSE], directory / "model")
    done = subprocess.run(
        [sys.executable, str(script), str(model), signal, whom],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.stdout, done.stderr
    ours = [line for line in done.stdout.splitlines() if line.startswith("[")]  # vLLM prints there too
    return [json.loads(line) for line in ours]


def are_gone(pids) -> bool:
    deadline_s = time.monotonic() + 10
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    return not any(psutil.pid_exists(pid) for pid in pids)


@pytest.mark.slow
@pytest.mark.parametrize("signal", ["SIGKILL", "SIGSTOP"])
def test_a_part_that_dies_or_hangs_fails_the_engine_and_ends_with_it(signal, tmp_path):
    parts, (error, seconds) = run(tmp_path, signal, "part")
    assert error.startswith("the engine has failed: ")
    assert seconds < 30  # the time limit is 3
    assert are_gone(parts)


@pytest.mark.slow
def test_parts_end_with_a_worker_that_is_killed_also_when_they_stand_still(tmp_path):
    (parts,) = run(tmp_path, "SIGKILL", "worker")
    assert are_gone(parts)

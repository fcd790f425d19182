"""A whole run whose engine is divided among two processes, one of which is killed, and one of which hangs."""

from __future__ import annotations

import os
import signal

import psutil
import pytest

from tests.shared.live_run import serving, trained_groups

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
HEARTBEAT_S = 9.0


def parts_of(worker) -> list[psutil.Process]:
    """vLLM's own name for its workers, or python's for what it has spawned, under the actor."""
    children = psutil.Process(worker["pid"]).children(recursive=True)
    return [
        one
        for one in children
        if "multiprocessing.spawn" in " ".join(one.cmdline()) or "Worker" in one.name()
    ]


def test_a_part_that_dies_or_hangs_costs_its_worker_and_no_group(start, make_config, tmp_path):
    config = make_config(
        rollout={"tensor_parallel": 2, "heartbeat_timeout_s": HEARTBEAT_S, "suspect_after_s": 60.0},
        train={"steps": 100_000, "max_staleness": 1, "checkpoint_every": 50, "keep_checkpoints": 2},
    )
    with start(config, tmp_path) as run:
        for number, sent in enumerate((signal.SIGKILL, signal.SIGSTOP), 1):
            facts = run.wait_for(lambda facts: serving(facts))
            before = run.wait_for(lambda now, then=facts: now["step"] >= then["step"] + 5)
            parts = parts_of(serving(before)[0])
            assert len(parts) == 2
            os.kill(parts[1].pid, sent)
            run.wait_for(lambda facts, number=number: facts["restarts"]["rollout"] == number)
            psutil.wait_procs(parts, timeout=20)
            assert not any(part.is_running() for part in parts)
            run.wait_for(lambda now, then=before: serving(now) and now["step"] >= then["step"] + 15)
        run.stop()
        end = run.finish()
    groups = trained_groups(tmp_path)
    assert len(groups) == len(set(groups)) == end["step"] * config.train.groups_per_step
    assert end["parity_max"] < 1e-4

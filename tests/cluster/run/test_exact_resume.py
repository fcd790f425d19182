"""kill -9 of a whole run, its driver, its Ray and all workers, at random moments; the same command goes on.

BONFIRE_TEST_SEED repeats the moments of an earlier call; it is printed with each failure.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from tests.shared import runs
from tests.shared.left_behind import checkpoint_at, num_steps
from tests.shared.runs import (
    STEPS,
    check_exactly_once,
    finished,
    kill_tree,
    started,
    wait_for,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Directory of a run that nobody kills."""
    project = runs.make_project(tmp_path_factory.mktemp("whole") / "project", tiny_model)
    code, out, err = finished(project, "train", "tiny.toml")
    assert code == 0, out + err
    return project / "run"


def run_with_kills(project: Path, lives: Sequence[Sequence[str]]) -> None:
    """The same command once for each of `lives`, with its overrides; killed in all but the last, at a random moment."""
    seed = int(os.environ.get("BONFIRE_TEST_SEED", time.time_ns() % 10**6))
    print(f"BONFIRE_TEST_SEED={seed}")
    random_source = random.Random(seed)
    steps = sorted(random_source.sample(range(STEPS - 6), len(lives) - 1))
    for step, overrides in zip(steps, lives, strict=False):
        with started(project, "train", "tiny.toml", "--resume", "auto", *overrides) as process:
            wait_for(lambda step=step: num_steps(project / "run") > step, process)
            delay_s = random_source.uniform(0.0, 0.3)
            time.sleep(delay_s)
            print(f"killed {delay_s:.3f} s after step {step + 1}, {overrides}")
            kill_tree(process)
    code, out, err = finished(project, "train", "tiny.toml", "--resume", "auto", *lives[-1])
    assert code == 0, out + err
    assert "at step 16/16" in out, out


def test_a_run_killed_again_and_again_ends_with_the_same_bits(whole, tmp_path, tiny_model):
    project = runs.make_project(tmp_path / "project", tiny_model)
    run_with_kills(project, [()] * 4)
    check_exactly_once(project / "run")
    ours, theirs = checkpoint_at(project / "run", STEPS), checkpoint_at(whole, STEPS)
    for name in ("model/model.safetensors", "optimizer.safetensors", "learner.json"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name

    code, out, err = finished(project, "train", "tiny.toml", "--resume", "auto")
    assert code == 0, err
    assert "training: finished already, at step 16/16" in out and "checkpoints/step-000016" in out


def test_a_run_of_two_workers_goes_on_with_one_and_trains_every_group_once(tmp_path, tiny_model):
    project = runs.make_project(tmp_path / "project", tiny_model, train={"max_staleness": 1})
    two, one = ("rollout.workers=2", "verifier.workers=2"), ("rollout.workers=1", "verifier.workers=1")
    run_with_kills(project, [two, one])
    check_exactly_once(project / "run")


def test_a_run_of_one_learner_rank_goes_on_with_two_and_with_one_again(whole, tmp_path, tiny_model):
    project = runs.make_project(tmp_path / "project", tiny_model)
    run_with_kills(project, [("learner.ranks=1",), ("learner.ranks=2",), ("learner.ranks=1",)])
    check_exactly_once(project / "run")
    for step in range(1, STEPS + 1):
        name = f"trajectories/step-{step:06d}.parquet"
        ours, theirs = (pq.read_table(run / name, columns=["token_ids"]) for run in (project / "run", whole))
        assert ours.equals(theirs), step
    ours, theirs = (
        load_file(checkpoint_at(run, STEPS) / "model/model.safetensors") for run in (project / "run", whole)
    )
    for name, weights in theirs.items():
        np.testing.assert_allclose(ours[name], weights, rtol=1e-3, atol=1e-4, err_msg=name)

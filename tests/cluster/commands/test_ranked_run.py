"""`bonfire train` on ranks among base scores: planned, killed while they are drawn and again later, gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cluster.evaluation.base_scores import STAGE
from cluster.run_directory.record import BASE_SCORES_FILE
from tests.shared import runs
from tests.shared.left_behind import checkpoint_at, num_steps, stage
from tests.shared.runs import NUM_PROBLEMS, finished, kill_tree, started, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STEPS = 4
VERIFIER = """
import time
from verifiers.types import Verdict

def scaled(problem, completion):
    time.sleep(0.02)  # the drawing must last long enough to be killed in
    scale = 10.0 ** (problem.truth["target"] % 7)
    return Verdict(score=scale * (sum(map(ord, completion)) % 23), reward=0.0)
"""
SECTIONS: dict[str, dict[str, Any]] = {
    "problems": {"num_train": NUM_PROBLEMS, "num_test": 4},
    "verifier": {"reward": "scaled_verifier:scaled"},
    "objective": {"num_select": 4, "score_transform": "rank_vs_base", "base_samples": 32},
    "train": {"steps": STEPS, "checkpoint_every": 1},
    "evaluation": {"samples_per_problem": 8, "ks": [1, 4]},
}


def project_at(path: Path, model: Path) -> Path:
    project = runs.make_project(path, model, **SECTIONS)
    (project / "scaled_verifier.py").write_text(VERIFIER)
    return project


def base_scores(run_dir: Path) -> dict[str, list[float]]:
    path = run_dir / BASE_SCORES_FILE
    rows = pq.read_table(path).to_pylist() if path.exists() else []
    return {row["problem_id"]: row["scores"] for row in rows}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_model) -> tuple[Path, str]:
    """A run that nobody kills, and what it showed."""
    project = project_at(tmp_path_factory.mktemp("whole") / "project", tiny_model)
    code, out, err = finished(project, "train", "tiny.toml")
    assert code == 0, out + err
    return project / "run", out


def test_what_the_base_scores_cost_is_planned_and_said(whole, tmp_path, tiny_model):
    code, out, err = finished(project_at(tmp_path / "project", tiny_model), "train", "tiny.toml", "--dry-run")
    planned = (
        "base scores    10 problems x 32 samples = 320 samples of the base model, once, before the training"
    )
    assert code == 0 and planned in out, out + err
    run_dir, shown = whole
    assert f"✓ {STAGE}: 10 problems x 32 samples of the base, drawn now: 10" in shown
    assert set(map(len, base_scores(run_dir).values())) == {32} and len(base_scores(run_dir)) == NUM_PROBLEMS


def test_the_evaluation_has_the_win_rate_of_the_trained_model_against_the_base(whole):
    run_dir, shown = whole
    base, trained = json.loads((run_dir / "report.json").read_text())["cells"]
    assert "win_rate_at_k" not in base and set(trained["win_rate_at_k"]) == {"1", "4"}
    assert 0.2 < trained["win_rate_at_k"]["1"]["mean"] < trained["win_rate_at_k"]["4"]["mean"] < 1
    assert "held-out win rate of Best-of-k against one sample of base with 95 % intervals" in shown


def test_a_run_killed_while_base_scores_are_drawn_and_while_it_trains_ends_with_the_same_bits(
    whole, tmp_path, tiny_model
):
    project = project_at(tmp_path / "project", tiny_model)
    run_dir, command = project / "run", ("train", "tiny.toml", "--resume", "auto")
    with started(project, *command) as process:
        drawn = wait_for(lambda: base_scores(run_dir), process)
        assert stage(run_dir) == STAGE
        kill_tree(process)
    drawn = base_scores(run_dir)
    assert 0 < len(drawn) < NUM_PROBLEMS and num_steps(run_dir) == 0
    with started(project, *command) as process:
        wait_for(lambda: num_steps(run_dir) >= 2, process)
        kill_tree(process)
    written = (run_dir / BASE_SCORES_FILE).stat().st_mtime_ns
    code, out, err = finished(project, *command)
    assert code == 0, out + err
    assert f"✓ {STAGE}: 10 problems x 32 samples of the base, there already" in out
    assert (run_dir / BASE_SCORES_FILE).stat().st_mtime_ns == written
    assert drawn.items() < base_scores(run_dir).items()
    assert base_scores(run_dir) == base_scores(whole[0])
    for name in ("model/model.safetensors", "optimizer.safetensors", "learner.json"):
        ours, theirs = (checkpoint_at(path, STEPS) / name for path in (run_dir, whole[0]))
        assert ours.read_bytes() == theirs.read_bytes(), name

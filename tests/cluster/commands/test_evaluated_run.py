"""`bonfire train` that evaluates meanwhile, keeps the best checkpoint, and ends because it gets no better."""

from __future__ import annotations

import json
import re

import pytest

from cluster.run_directory.held_out import read_held_out
from tests.shared import runs
from tests.shared.left_behind import checkpoint_at
from tests.shared.runs import finished

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

WHY = "held-out best_of@4 has not improved for 1 evaluations, the best is of step 2"
SECTIONS = {
    "problems": {"num_train": 10, "num_test": 6},
    "verifier": {"reward": "zero_verifier:zero"},
    "train": {"steps": 9, "keep_best": "best_of@4", "stop_when_worse_for": 1},
    "evaluation": {"every": 2, "samples_per_problem": 8, "during_problems": 4, "ks": [1, 8]},
}


def test_a_run_that_gets_no_better_ends_well_and_says_which_checkpoint_is_the_best(tmp_path, tiny_model):
    project = runs.make_project(tmp_path / "project", tiny_model, **SECTIONS)
    (project / "zero_verifier.py").write_text("def zero(problem, completion):\n    return 0.0\n")
    code, out, err = finished(project, "train", "tiny.toml", "--dry-run")
    planned = "6 evaluations, one every 2 steps, of 4 held-out problems x 8 samples = 192 samples, k = [1, 4, 8], the best"
    assert code == 0 and planned in out, out + err

    code, out, err = finished(project, "train", "tiny.toml")
    assert code == 0, out + err
    run_dir = project / "run"
    assert [row["step"] for row in read_held_out(run_dir)] == [0, 2, 4]
    told = re.findall(r"· held out at step (\d), version (\d): pass@1 0\.000 \[", out)
    assert told[-1] == ("4", "4") and set(told) <= {("0", "0"), ("2", "2"), ("4", "4")}
    assert f"training: stopped at step 4/9: {WHY}" in out
    assert (run_dir / "best").resolve() == checkpoint_at(run_dir, 2).resolve()
    assert str(checkpoint_at(run_dir, 2).resolve()) in out.replace("\n", "")
    about = json.loads((run_dir / "run.json").read_text())
    assert about["best"] == {"step": 2, "by": "best_of@4", "value": 0.0} and about["stage"] == "ended"
    report = json.loads((run_dir / "report.json").read_text())
    assert [cell["model"] for cell in report["cells"]] == ["base", "trained", "best"]

    code, out, err = finished(project, "train", "--resume", "run")
    assert code == 0 and f"training: stopped at step 4/9: {WHY}" in out, out + err
    assert [row["step"] for row in read_held_out(run_dir)] == [0, 2, 4]

    code, out, err = finished(project, "train", "--resume", "run", "train.stop_when_worse_for=9")
    assert code == 0 and "training: finished at step 9/9" in out, out + err
    assert [row["step"] for row in read_held_out(run_dir)] == [0, 2, 4, 6, 8, 9]

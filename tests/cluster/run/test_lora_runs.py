"""A whole run that trains adapters: killed, gone on with to the same bits, evaluated, exported, trained from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.shared import runs
from tests.shared.left_behind import checkpoint_at, num_steps
from tests.shared.runs import finished, kill_tree, started, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

STEPS = 6
LORA = {"rank": 4, "alpha": 8}
SECTIONS = {
    "learner": {"learning_rate": 1e-2, "kl_coefficient": 0.01},
    "train": {"steps": STEPS, "checkpoint_every": 2},
    "evaluation": {"samples_per_problem": 4, "ks": [1, 4]},
}


def trained(path: Path, model: Path, publish: str, *, killed: bool = False) -> Path:
    sections = {**SECTIONS, "learner": {**SECTIONS["learner"], "lora": {**LORA, "publish": publish}}}
    project = runs.make_project(path, model, **sections)
    if killed:
        with started(project, "train", "tiny.toml", "--resume", "auto") as process:
            wait_for(lambda: num_steps(project / "run") > 2, process)
            kill_tree(process)
    code, out, err = finished(project, "train", "tiny.toml", "--resume", "auto")
    assert code == 0, out + err
    return project


@pytest.mark.parametrize("publish", ["merged", "adapter"])
def test_a_run_of_adapters_is_exact_over_a_kill_and_its_result_is_evaluated_exported_and_trained_from(
    publish, tmp_path, tiny_model
):
    whole = trained(tmp_path / "whole", tiny_model, publish)
    killed = trained(tmp_path / "killed", tiny_model, publish, killed=True)
    ours, theirs = (checkpoint_at(project / "run", STEPS) for project in (killed, whole))
    for name in ("model/adapter_model.safetensors", "optimizer.safetensors"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    assert not (theirs / "model/model.safetensors").exists()

    metrics = [json.loads(line) for line in (whole / "run/metrics.jsonl").read_text().splitlines()]
    assert max(row["parity_max"] for row in metrics) < 1e-4 and metrics[-1]["kl_reference"] > 0
    report = json.loads((whole / "run/report.json").read_text())
    assert {cell["model"] for cell in report["cells"]} == {"base", "trained"}

    code, out, err = finished(whole, "export", "run", "--merged", "merged")
    assert code == 0 and "step-000006/model merged into it, in float32" in out, out + err
    (evaluated,) = (whole / "run/evaluation/merged").iterdir()
    name = "model.safetensors"
    assert (evaluated / name).read_bytes() == (whole / "merged" / name).read_bytes()
    base, merged = load_file(tiny_model / name), load_file(whole / "merged" / name)
    changed = {name for name, value in merged.items() if (value != base[name]).any()}
    assert {name.split(".")[-2] for name in changed} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip

    code, out, err = finished(
        whole, "train", "tiny.toml", "model=merged", "run_dir=next", "train.steps=1", "evaluation.ks=[1]"
    )
    assert code == 0, out + err

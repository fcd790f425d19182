"""A whole run that trains adapters: killed, gone on with to the same bits, evaluated, exported, trained from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from cluster.evaluation.store import read_samples
from cluster.run_directory.held_out import HeldOutRecord
from tests.shared import runs
from tests.shared.left_behind import checkpoint_at, num_steps
from tests.shared.runs import finished, kill_tree, started, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

STEPS = 6
LORA = {"rank": 4, "alpha": 8}
SECTIONS: dict[str, Any] = {
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
    name = "model.safetensors"
    evaluated = list((whole / "run/evaluation").glob(f"merged/*/{name}"))
    assert len(evaluated) == (publish == "merged")
    for path in evaluated:
        assert path.read_bytes() == (whole / "merged" / name).read_bytes()
    base, merged = load_file(tiny_model / name), load_file(whole / "merged" / name)
    changed = {name for name, value in merged.items() if (value != base[name]).any()}
    assert {name.split(".")[-2] for name in changed} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip

    code, out, err = finished(
        whole, "train", "tiny.toml", "model=merged", "run_dir=next", "train.steps=1", "evaluation.ks=[1]"
    )
    assert code == 0, out + err


def test_in_bfloat16_an_adapter_published_alone_is_evaluated_as_it_was_sampled_and_merged_it_is_another_policy(
    tmp_path, tiny_model
):
    """By the rewards of every sample, while it trains and after: the last weights' on the same problems and seeds."""
    during = {"samples_per_problem": 8, "ks": [1], "every": STEPS, "during_problems": 4}
    sections = SECTIONS | {
        "problems": {"num_train": 10, "num_test": 4},
        "rollout": {"dtype": "bfloat16", "max_tokens": 16},
        "learner": {"dtype": "bfloat16", "learning_rate": 2e-3, "lora": {**LORA, "publish": "adapter"}},
        "evaluation": during,
    }
    project = runs.make_project(tmp_path / "project", tiny_model, **sections)
    code, out, err = finished(project, "train", "tiny.toml")
    assert code == 0, out + err
    judged = HeldOutRecord(project / "run", step=10_000).judgements(STEPS)
    while_it_trained = [judged[index][1].rewards.tolist() for index in range(4)]

    adapter = checkpoint_at(project / "run", STEPS) / "model"
    assert finished(project, "export", str(adapter), "--merged", "merged")[0] == 0
    code, out, err = finished(
        project, "eval", "tiny.toml", f"apart={adapter}", "merged=merged", "--out", "eval"
    )
    assert code == 0, out + err
    rewards = {
        path.stem: [group.rewards.tolist() for group in read_samples(path)]
        for directory in ("eval", "run/evaluation")
        for path in (project / directory / "samples").glob("*.parquet")
    }
    assert rewards["trained@1"] == rewards["apart@1"] == while_it_trained
    assert rewards["merged@1"] != while_it_trained

    parts = ("rollout.tensor_parallel=2", "learner.lora.publish=merged")
    code, out, err = finished(project, "eval", "tiny.toml", f"apart={adapter}", *parts)
    assert code != 0 and "set rollout.tensor_parallel = 1, or merge it first: bonfire export" in out + err

"""HumanEval with SmolLM2-135M-Instruct by `bonfire eval`: programs of a real model, run in the sandbox."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import tomli_w

from cluster.config.parse import load_config
from cluster.evaluation.store import Cell, read_samples, sample_files
from tests.shared import runs
from tests.shared.paths import FIXTURES, ROOT
from verifiers.problems.loading import load_problems
from verifiers.types import Problem

pytestmark = [pytest.mark.real, pytest.mark.timeout(1200)]

ROWS = FIXTURES / "published" / "humaneval.jsonl"
PROBLEMS, SAMPLES = 6, 8
CELL = Cell(model="smollm2", temperature=0.6)


def write_config(path: Path, model: Path) -> list[Problem]:
    """The example's prompt, on a CPU; the problems."""
    example = load_config(ROOT / "examples" / "humaneval.toml")
    settings = {
        "model": str(model),
        "problems": {
            "source": "files",
            "test_path": str(ROWS),
            "format": "humaneval",
            "prompt_template": example.problems.prompt_template,
        },
        "verifier": {"reward": "python_tests", "timeout_s": 10.0},
        "rollout": {
            "temperature": CELL.temperature,
            "max_tokens": 128,
            "max_model_len": 512,
            "max_num_seqs": PROBLEMS * SAMPLES,
            "kv_cache_mib": 256,
            "dtype": "bfloat16",
            "startup_timeout_s": runs.PATIENCE_S,
            "heartbeat_timeout_s": 120.0,
            "suspect_after_s": 120.0,
        },
        "evaluation": {"samples_per_problem": SAMPLES, "ks": [1, 8]},
        "metrics": {"port": 0},
    }
    path.write_text(tomli_w.dumps(settings))
    return load_problems(load_config(path).problems, "test")


def test_programs_of_a_real_model_are_run_and_judged_alike_twice(tmp_path, real_model):
    if not shutil.which("bwrap") and os.environ.get("CI") != "true":
        pytest.skip("bubblewrap is missing: apt-get install bubblewrap")
    problems = write_config(tmp_path / "humaneval.toml", real_model)
    code, out, err = runs.finished(
        tmp_path, "eval", "humaneval.toml", f"smollm2={real_model}", "--out", "samples"
    )
    assert code == 0, out + err
    [(cell, file)] = sample_files(tmp_path / "samples").items()
    groups = read_samples(file)
    assert cell == CELL and [group.samples.problem_id for group in groups] == [one.id for one in problems]
    rewards = [reward for group in groups for reward in group.rewards]
    assert len(rewards) == PROBLEMS * SAMPLES and set(rewards) == {0.0, 1.0}
    for problem, group in zip(problems, groups, strict=True):
        for text, reward, status in zip(group.samples.texts, group.rewards, group.statuses, strict=True):
            assert status in ("ok", "wrong_format", "timeout", "crashed", "refused")
            assert not reward or f"def {problem.truth['entry_point']}(" in text
    # Programs that do the same are judged the same again.
    code, out, err = runs.finished(
        tmp_path, "eval", "humaneval.toml", "--rescore", "samples", "--out", "again"
    )
    assert code == 0, out + err
    [again] = sample_files(tmp_path / "again").values()
    assert [list(group.rewards) for group in read_samples(again)] == [list(one.rewards) for one in groups]
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("samples", "again")]
    assert reports[0]["cells"][0]["pass_at_k"] == reports[1]["cells"][0]["pass_at_k"]
    assert 0 < reports[0]["cells"][0]["pass_at_k"]["8"]["mean"] <= 1

"""GSM8K with SmolLM2-135M-Instruct, by the commands a user calls: what a sound run shows in float32 and in bfloat16.

Three synchronous steps, a fourth one after a resume, an evaluation of base and checkpoint. Nothing is replaced. Log-probs
are computed again by transformers alone, from the published model or a checkpoint on disk.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from cluster.config.parse import load_config
from cluster.evaluation.store import Cell, read_samples, sample_files
from cluster.run.model_checks import is_slow_in_bfloat16
from tests.shared import runs
from tests.shared.left_behind import checkpoint_at
from tests.shared.live_run import trajectories
from tests.shared.paths import FIXTURES
from verifiers.problems.loading import load_problems

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]

ROWS = FIXTURES / "published" / "gsm8k.jsonl"
GROUPS, SAMPLES, MAX_TOKENS, STEPS = 4, 8, 96, 3
EVAL_PROBLEMS, EVAL_SAMPLES = 4, 4
LEARNING_RATE = 1e-5
ROUNDING = {"float32": 1e-4, "bfloat16": 0.1}
"""Mean difference, in nats, of a token's log-prob in the engine and in transformers (float32)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    dtype: str
    model: Path
    project: Path

    @property
    def directory(self) -> Path:
        return self.project / "run"

    def steps(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.directory / "metrics.jsonl").read_text().splitlines()]

    def checkpoint(self, step: int) -> Path:
        return checkpoint_at(self.directory, step) / "model"


def settings(model: Path, dtype: str) -> dict[str, Any]:
    return {
        "model": str(model),
        "run_dir": "run",
        "problems": {"source": "files", "train_path": str(ROWS), "format": "gsm8k"},
        # All samples differ in length, so that nearly each has a weight where few are right.
        "verifier": {
            "reward": {"math": 1.0, "length": 0.2},
            "length": {"zero_chars": 1000},
            "timeout_s": 10.0,
        },
        "rollout": {
            "samples_per_prompt": SAMPLES,
            "max_tokens": MAX_TOKENS,
            "max_model_len": 256,
            "max_num_seqs": GROUPS * SAMPLES,
            "kv_cache_mib": 256,
            "dtype": dtype,
            "startup_timeout_s": runs.PATIENCE_S,
            "heartbeat_timeout_s": 120.0,
            "suspect_after_s": 120.0,  # a machine under load is no fault
        },
        "objective": {"num_select": 4},
        "learner": {
            "learning_rate": LEARNING_RATE,
            "warmup_steps": 1,
            "dtype": dtype,
            "micro_batch_tokens": 2048,
        },
        "train": {
            "steps": STEPS,
            "groups_per_step": GROUPS,
            "max_staleness": 0,
            "checkpoint_every": STEPS,
        },
        "metrics": {"port": 0},
    }


def evaluation_settings(model: Path, dtype: str) -> dict[str, Any]:
    training = settings(model, dtype)
    return {
        "model": training["model"],
        "problems": {"source": "files", "test_path": str(ROWS), "max_test": EVAL_PROBLEMS, "format": "gsm8k"},
        "verifier": {"reward": "math", "timeout_s": 10.0},
        "rollout": training["rollout"],
        "objective": training["objective"],
        "evaluation": {"samples_per_problem": EVAL_SAMPLES, "ks": [1, 2, 4]},
        "metrics": {"port": 0},
    }


def bonfire(project: Path, *arguments: object) -> str:
    """What the command prints."""
    code, out, err = runs.finished(project, *arguments)
    assert code == 0, out + err
    return out


BFLOAT16 = pytest.param(
    "bfloat16",
    marks=pytest.mark.skipif(is_slow_in_bfloat16(), reason="this CPU takes 60 times as long in bfloat16"),
)


@pytest.fixture(scope="module", params=["float32", BFLOAT16])
def run(request, tmp_path_factory, real_model) -> Iterator[Run]:
    project = tmp_path_factory.mktemp(request.param)
    (project / "gsm8k.toml").write_text(tomli_w.dumps(settings(real_model, request.param)))
    (project / "eval.toml").write_text(tomli_w.dumps(evaluation_settings(real_model, request.param)))
    assert f"finished at step {STEPS}/{STEPS}" in bonfire(project, "train", "gsm8k.toml")
    again = bonfire(project, "train", "--resume", "run", f"train.steps={STEPS + 1}")
    assert f"finished at step {STEPS + 1}/{STEPS + 1}" in again
    yield Run(dtype=request.param, model=real_model, project=project)
    shutil.rmtree(project)  # two checkpoints of 1.6 GB


def sampled(run: Run, step: int, model: Path) -> tuple[np.ndarray, np.ndarray]:
    """Log-probs of every token that a step was trained on: the engine's, and those of the model in transformers."""
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    engine, ours = [], []
    for group in trajectories(run.directory)[step]:
        prompt = list(group["prompt_token_ids"])
        for tokens, logprobs in zip(group["token_ids"], group["logprobs"], strict=True):
            with torch.no_grad():
                logits_TV = network(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]
            chosen_T = logits_TV.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None])[:, 0]
            ours.append(chosen_T.numpy())
            engine.append(np.array(logprobs))
    return np.concatenate(engine), np.concatenate(ours)


def test_each_step_of_a_sound_run_is_within_its_limits(run):
    mean_limit, kl_limit = load_config(run.project / "gsm8k.toml").parity_limits
    steps = run.steps()
    assert [step["step"] for step in steps] == [1, 2, 3, 4]
    for step in steps:
        assert all(math.isfinite(value) for value in step.values()), step
        assert step["staleness_max"] == 0 and step["num_samples"] == GROUPS * SAMPLES
        assert 16 <= step["trained_sequences"] < step["num_samples"] and step["trained_tokens"] > 500
        assert step["parity_tokens"] > 500
        assert 0 < step["parity_mean"] < mean_limit and abs(step["parity_kl"]) < kl_limit
        assert 0 < step["grad_norm"] < 100
        assert step["ratio_truncated_fraction"] < 0.01 and step["kl_reference"] == 0
        # Samples of the newest policy: what is left of the ratio is rounding, and is not taken for staleness.
        assert step["ratio_mean"] == pytest.approx(1.0, abs=1e-4 if run.dtype == "float32" else 0.02)
        assert step["staleness_ratio"] < 0.01 and step["staleness_kl"] < 1e-3
    assert {step["learning_rate"] for step in steps} == {LEARNING_RATE}


def test_engines_sample_from_the_model_and_later_from_what_was_trained(run):
    """Of step 4 this includes the checkpoint that was resumed from, its way to the engine, and the prompts' encoding."""
    for step, model in ((1, run.model), (STEPS + 1, run.checkpoint(STEPS))):
        engine, ours = sampled(run, step, model)
        assert len(engine) > 1000
        assert np.abs(engine - ours).mean() < ROUNDING[run.dtype]
        assert abs(np.expm1(ours - engine).mean()) < 10 * ROUNDING[run.dtype] / math.sqrt(len(engine)) + 1e-4
    if run.dtype == "float32":  # in bfloat16 rounding is as large as three steps
        _, before = sampled(run, STEPS + 1, run.model)
        assert np.abs(engine - before).mean() > 10 * np.abs(engine - ours).mean()


def test_every_weight_moves_by_no_more_than_its_learning_rate_allows(run):
    [base] = [load_file(file) for file in run.model.glob("*.safetensors")]
    trained = load_file(run.checkpoint(STEPS + 1) / "model.safetensors")
    assert trained.keys() == base.keys()
    for name, tensor in trained.items():
        assert tensor.dtype == torch.float32
        moved = (tensor - base[name].float()).abs()
        assert moved.max() > 0.5 * LEARNING_RATE, name
        assert moved.max() <= 1.5 * (STEPS + 1) * LEARNING_RATE + 1e-6, name


def test_an_evaluation_judges_base_and_checkpoint(run):
    trained = run.checkpoint(STEPS + 1)
    models = (f"base={run.model}", f"trained={trained}")
    out = bonfire(run.project, "eval", "eval.toml", *models, "--out", "evaluation")
    assert "pass@k" in out
    problems = load_problems(load_config(run.project / "eval.toml").problems, "test")
    assert len(problems) == EVAL_PROBLEMS
    files = sample_files(run.project / "evaluation")
    assert set(files) == {Cell(model=name, temperature=1.0) for name in ("base", "trained")}
    for file in files.values():
        for problem, group in zip(problems, read_samples(file), strict=True):
            assert len(group.rewards) == EVAL_SAMPLES and set(group.rewards) <= {0.0, 1.0}
            assert set(group.statuses) <= {"ok", "wrong_format"}
            right = [text for text, reward in zip(group.samples.texts, group.rewards, strict=True) if reward]
            assert all(problem.truth["answer"] in text.replace(",", "") for text in right)
    report = json.loads((run.project / "evaluation" / "report.json").read_text())
    for cell in report["cells"]:
        means = [cell["pass_at_k"][k]["mean"] for k in ("1", "2", "4")]
        assert means == sorted(means) and 0 <= means[0] and means[-1] <= 1

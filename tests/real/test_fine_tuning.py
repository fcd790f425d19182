"""`bonfire sft` on SmolLM2-135M-Instruct and GSM8K, in float32 and in bfloat16: what is held out becomes likelier, and
transformers alone measures the same of the result.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tomli_w
import torch
from transformers import AutoModelForCausalLM

from cluster.config.parse import load_config
from cluster.run.fine_tuning import take_demonstrations
from cluster.run.model_checks import is_slow_in_bfloat16
from cluster.run.preflight import tokenizer_of
from learner.supervised.demonstrations import Demonstrations
from tests.shared import runs
from tests.shared.paths import FIXTURES

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]

ROWS = FIXTURES / "published" / "gsm8k.jsonl"
BFLOAT16 = pytest.param(
    "bfloat16",
    marks=pytest.mark.skipif(is_slow_in_bfloat16(), reason="this CPU takes 60 times as long in bfloat16"),
)


def loss_by_transformers(model: Path, data: Demonstrations) -> float:
    """Of the held-out demonstrations, one at a time, in float32."""
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    sequences, logprobs = data.sequences, []
    for number in data.held_out:
        start, prompt = sequences.starts[number], int(sequences.prompt_lengths[number])
        end = start + prompt + sequences.completion_lengths[number]
        tokens = torch.from_numpy(sequences.token_ids[start:end].copy())
        with torch.no_grad():
            logits_TV = network(tokens[None]).logits[0, prompt - 1 : -1]
        logprobs.append(logits_TV.log_softmax(-1).gather(1, tokens[prompt:, None])[:, 0])
    return -float(torch.cat(logprobs).mean())


@pytest.mark.parametrize("dtype", ["float32", BFLOAT16])
def test_held_out_solutions_become_likelier_as_transformers_measures_too(dtype, real_model, tmp_path):
    config = {
        "model": "tuned",
        "problems": {"source": "files", "train_path": str(ROWS), "format": "gsm8k"},
        "rollout": {"max_tokens": 200, "max_model_len": 512, "dtype": dtype},
        "learner": {"dtype": dtype, "num_cpus": 2, "micro_batch_tokens": 2048},
        "sft": {
            "base_model": str(real_model),
            "steps": 6,
            "batch_size": 4,
            "warmup_steps": 1,
            "held_out_share": 0.3,
            "held_out_every": 3,
        },
    }
    (tmp_path / "tune.toml").write_text(tomli_w.dumps(config))
    code, out, err = runs.finished(tmp_path, "sft", "tune.toml")
    assert code == 0, out + err
    tuned = tmp_path / "tuned"
    facts = [json.loads(line) for line in (tuned / "sft.jsonl").read_text().splitlines()]
    held_out = [fact["held_out_loss"] for fact in facts if "held_out_loss" in fact]
    assert len(held_out) == 3 and held_out[-1] < held_out[0] - 0.02
    parsed = load_config(tmp_path / "tune.toml")
    data = take_demonstrations(parsed, tokenizer_of(parsed))
    tolerance = 1e-4 if dtype == "float32" else 2e-2
    assert loss_by_transformers(real_model, data) == pytest.approx(held_out[0], abs=tolerance)
    assert loss_by_transformers(tuned, data) == pytest.approx(held_out[-1], abs=tolerance)
    shutil.rmtree(tuned)

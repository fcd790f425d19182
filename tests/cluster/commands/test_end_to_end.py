"""`bonfire train` as a user calls it, from published formats to a trained checkpoint, with each kind of verifier.

The policy is tiny and its words are numbers and operators, so prompts are such words; all else is real.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tomli_w
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from learner.sft import VOCABULARY, build_tokenizer

pytestmark = pytest.mark.slow

STEPS, GROUPS, SAMPLES = 3, 4, 8
QUESTION = "1 2 3 4 = 10 :"
PROGRAM = {"text": QUESTION, "code": "1", "test_list": ["assert min(2, 1) == 1"], "test_setup_code": ""}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    """A sequence classifier of random weights that reads the policy's words."""
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(
        **size, vocab_size=len(VOCABULARY), num_labels=1, pad_token_id=0, initializer_range=0.5
    )
    path = tmp_path_factory.mktemp("classifier") / "model"
    LlamaForSequenceClassification(config).save_pretrained(path)
    build_tokenizer().save_pretrained(path)
    return path


def train(directory: Path, model: Path, rows: list[dict[str, Any]], **sections: Mapping[str, Any]) -> Path:
    """A run of STEPS steps in a process of its own; its directory."""
    (directory / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "model": str(model),
        "run_dir": "run",
        "rollout": {
            "samples_per_prompt": SAMPLES,
            "max_tokens": 12,
            "max_model_len": 96,
            "max_num_seqs": 64,
            "kv_cache_mib": 16,
        },
        "objective": {"num_select": 4},
        "train": {"steps": STEPS, "groups_per_step": GROUPS, "checkpoint_every": STEPS},
        "metrics": {"port": 0},
        **sections,
    }
    settings["problems"] = {"source": "files", "train_path": "train.jsonl", **sections["problems"]}
    (directory / "run.toml").write_text(tomli_w.dumps(settings))
    command = [sys.executable, "-c", "from cluster.commands.cli import main; main()", "train", "run.toml"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (directory / "run/checkpoints" / f"step-{STEPS:06d}" / "model/model.safetensors").is_file()
    return directory / "run"


def verdicts(run: Path) -> dict[str, list[Any]]:
    """Scores, rewards and statuses of every trained sample."""
    tables = [pq.read_table(path) for path in sorted((run / "trajectories").glob("*.parquet"))]
    columns = {
        name: [value for table in tables for group in table[name].to_pylist() for value in group]
        for name in ("scores", "rewards", "statuses", "texts")
    }
    assert len(columns["rewards"]) == STEPS * GROUPS * SAMPLES
    return columns


def test_a_run_on_rows_of_math_is_judged_by_value(tmp_path, tiny_model):
    rows = [{"problem": QUESTION, "solution": rf"So \boxed{{{n}}}.", "level": "Level 1"} for n in range(8)]
    seen = verdicts(
        train(
            tmp_path,
            tiny_model,
            rows,
            problems={"format": "math", "prompt_template": "{prompt}"},
            verifier={"reward": "math"},
        )
    )
    assert set(seen["statuses"]) <= {"ok", "wrong_format", "refused", "timeout"}
    assert "ok" in seen["statuses"] and set(seen["rewards"]) <= {0.0, 1.0}


def test_a_run_on_rows_of_mbpp_runs_each_completion_in_the_sandbox(tmp_path, tiny_model):
    rows = [{**PROGRAM, "task_id": index} for index in range(8)]
    seen = verdicts(
        train(
            tmp_path,
            tiny_model,
            rows,
            problems={"format": "mbpp", "prompt_template": "{prompt}"},
            verifier={"reward": "python_tests", "timeout_s": 10.0},
        )
    )
    for text, reward in zip(seen["texts"], seen["rewards"], strict=True):
        assert reward == float(runs(text)), text


def test_a_reward_model_selects_and_the_truth_rewards(tmp_path, tiny_model, classifier):
    rows = [{"prompt": QUESTION, "numbers": [1, 2, 3, 4], "target": 10}] * GROUPS
    seen = verdicts(
        train(
            tmp_path,
            tiny_model,
            rows,
            problems={"format": "countdown"},
            verifier={
                "score": "reward_model",
                "reward": {"countdown": 1.0, "length": 0.5},
                "reward_model": {
                    "model": str(classifier),
                    "input": "text",
                    "template": "{prompt} {completion}",
                },
                "length": {"free_chars": 0, "zero_chars": 100},
            },
        )
    )
    assert len(set(seen["scores"])) > SAMPLES, "scores are the model's, and graded"
    for text, reward in zip(seen["texts"], seen["rewards"], strict=True):
        assert reward % 1.0 == pytest.approx(0.5 * (1 - len(text) / 100) % 1.0), text


def test_a_model_judges_itself_with_an_engine_of_its_own(tmp_path, tiny_model):
    rows = [{"prompt": QUESTION, "numbers": [1, 2, 3, 4], "target": 10}] * GROUPS
    judge = {
        "model": str(tiny_model),
        "votes": 2,
        "max_tokens": 8,
        "max_model_len": 96,
        "kv_cache_mib": 16,
        "prompt_template": "{prompt} {completion}",
        "accept": r"\d",
        "reject": r"[-+*/]",
    }
    seen = verdicts(
        train(
            tmp_path,
            tiny_model,
            rows,
            problems={"format": "countdown"},
            verifier={"score": "judge", "reward": "countdown", "judge": judge},
        )
    )
    assert set(seen["scores"]) <= {0.0, 0.5, 1.0}


def runs(program: str) -> bool:
    """Whether a program of numbers and operators runs to its end."""
    try:
        exec(compile(program, "candidate", "exec"), {})  # noqa: S102  of numbers and operators only
    except (SyntaxError, ArithmeticError, TypeError, ValueError):
        return False
    return True

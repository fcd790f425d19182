"""Problems that cannot be used are named before a run, all at once, and left out as far as they may be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from actors.tokens import load_tokenizer
from cluster.config.parse import parse_config
from cluster.run.intake import take_in

ROWS = [
    {"prompt": "1 2 3", "answer": "6"},
    {"prompt": "1 " * 40, "answer": "40"},
    {"prompt": "", "answer": "1"},
    {"prompt": "2 3", "answer": None},
    {"prompt": "3 4", "answer": "never"},
    {"prompt": "4 5", "answer": "9"},
]


@pytest.fixture
def config(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "intake_verifiers.py").write_text(
        "from verifiers.exact_match import check_problem\n"
        "from verifiers.types import Trial\n"
        "def judge(problem, completion):\n"
        "    return float(completion == problem.truth['answer'] != 'never')\n"
        "def trials(problem):\n"
        "    return [Trial(completion=problem.truth['answer'], is_right=True)]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    def make(**problems: Any):
        return parse_config(
            {
                "model": str(tiny_model),
                "problems": {"source": "files", "train_path": str(path), **problems},
                "verifier": {"reward": "intake_verifiers:judge"},
                "rollout": {"max_model_len": 40, "max_tokens": 8},
            }
        )

    return make


def test_every_row_that_cannot_be_used_is_named_at_once_with_its_reason(config, tiny_model) -> None:
    with pytest.raises(ValueError) as refused:
        take_in(config(max_invalid_rows=3), "train", load_tokenizer(str(tiny_model)), judges_here=True)
    lines = str(refused.value).splitlines()
    assert [line.partition(" is ")[0].partition(" has ")[0].partition(": ver")[0] for line in lines[:4]] == [
        f"{config().problems.train_path[0]}:3: field 'prompt'",
        "the prompt of problem 'rows.jsonl:2'",
        "problem 'rows.jsonl:4': truth 'answer'",
        "problem 'rows.jsonl:5'",
    ]
    assert "gives the row's own truth, or its solution, the reward 0" in lines[3]
    assert lines[4] == (
        "4 train rows cannot be used: correct them, or set problems.max_invalid_rows=4 to leave them out"
    )


def test_as_many_as_may_be_are_left_out_with_their_prompts(config, tiny_model, capsys) -> None:
    taken = take_in(config(max_invalid_rows=4), "train", load_tokenizer(str(tiny_model)), judges_here=True)
    assert [problem.prompt for problem in taken.problems] == ["1 2 3", "4 5"]
    assert [len(prompt) for prompt in taken.prompts] == [3, 2]
    assert capsys.readouterr().err.startswith(
        "bonfire: 4 of 6 train rows left out (problems.max_invalid_rows = 4), the first: "
    )


def test_where_the_verifiers_are_elsewhere_no_truth_is_judged(config, tiny_model) -> None:
    taken = take_in(config(max_invalid_rows=3), "train", load_tokenizer(str(tiny_model)), judges_here=False)
    assert [problem.prompt for problem in taken.problems] == ["1 2 3", "3 4", "4 5"]

"""`bonfire sft`, and [sft] in a run, as a user calls them: a fine-tuned model, also after an interruption."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from safetensors.torch import load_file
from transformers import AutoTokenizer

from tests.shared import commands, runs
from tests.shared.left_behind import checkpoint_at
from verifiers.countdown.puzzles import demonstrations

STEPS = 300
NUM_ROWS = 60


def make_project(path: Path, model: Path, **sections: dict[str, Any]) -> Path:
    path.mkdir()
    rows = [
        {"q": prompt, "a": completion, "id": f"p{number}"}
        for number, (prompt, completion) in enumerate(demonstrations(NUM_ROWS, 0, 0.0))
    ]
    (path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings: dict[str, Any] = {
        "model": "tuned",
        "run_dir": "run",
        "problems": {
            "source": "files",
            "train_path": "train.jsonl",
            "prompt_field": "q",
            "id_field": "id",
            "demonstration_field": "a",
        },
        "verifier": {"reward": "length", "length": {"zero_chars": 40}},
        "rollout": {
            "samples_per_prompt": 4,
            "max_tokens": 12,
            "max_model_len": 64,
            "kv_cache_mib": 16,
            "startup_timeout_s": runs.PATIENCE_S,
            "heartbeat_timeout_s": 120.0,
            "suspect_after_s": 120.0,
        },
        "objective": {"num_select": 2},
        "train": {"steps": 1, "groups_per_step": 2, "max_staleness": 0},
        "metrics": {"port": 0},
        "sft": {
            "base_model": str(model),
            "steps": STEPS,
            "batch_size": 8,
            "learning_rate": 1e-2,
            "held_out_share": 0.2,
            "held_out_every": 100,
            "checkpoint_every": 120,
            **sections.pop("sft", {}),
        },
    }
    for name, section in sections.items():
        settings[name] = {**settings.get(name, {}), **section}
    (path / "tune.toml").write_text(tomli_w.dumps(settings))
    return path


def bonfire(project: Path, *arguments: object) -> str:
    """What the command prints."""
    code, out, err = runs.finished(project, *arguments)
    assert code == 0, out + err
    return out


def refusal(project: Path, *arguments: object) -> str:
    code, out, err = runs.finished(project, *arguments)
    assert code == 1, out
    return runs.one_line(err)


def curve(model: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (model / "sft.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A project in which `bonfire sft` has run to its end."""
    project = make_project(tmp_path_factory.mktemp("whole") / "project", tiny_model)
    out = bonfire(project, "sft", "tune.toml")
    assert f"base model: fine-tuned in {STEPS} steps, held-out loss " in out
    return project


@pytest.mark.slow
def test_the_result_is_a_model_with_its_curve_and_nothing_else_is_left(tuned):
    facts = curve(tuned / "tuned")
    assert [fact["step"] for fact in facts] == list(range(STEPS + 1))
    held_out = {fact["step"]: fact["held_out_loss"] for fact in facts if "held_out_loss" in fact}
    assert list(held_out) == [0, 100, 200, 300] and held_out[300] < held_out[0]
    assert facts[-1]["loss"] < 0.5 * facts[1]["loss"]
    assert AutoTokenizer.from_pretrained(tuned / "tuned").eos_token == "<eos>"
    assert json.loads((tuned / "tuned" / "generation_config.json").read_text())["eos_token_id"] == 1
    assert sorted(path.name for path in tuned.iterdir()) == ["train.jsonl", "tune.toml", "tuned"]


@pytest.mark.slow
def test_an_interrupted_call_goes_on_to_the_same_bits(tuned, tiny_model, tmp_path):
    project = make_project(tmp_path / "project", tiny_model)
    lines = project / "tuned.making" / "metrics.jsonl"
    with runs.started(project, "sft", "tune.toml") as process:
        runs.wait_for(lambda: lines.exists() and len(lines.read_text().splitlines()) > 5, process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=runs.PATIENCE_S)
        assert process.returncode == 130
    assert runs.one_line(err) == "bonfire: stopped with a checkpoint; the same command goes on from it"
    done = len(lines.read_text().splitlines()) - 1
    assert 5 <= done < STEPS and not (project / "tuned").exists()
    changed = refusal(project, "sft", "tune.toml", "sft.learning_rate=0.02")
    assert "tuned.making was made with sft.learning_rate = 0.01, the config says 0.02: delete" in changed
    with runs.started(
        project, "sft", "tune.toml"
    ) as process:  # and once more, killed between two checkpoints
        runs.wait_for(lambda: len(lines.read_text().splitlines()) > done + 20, process)
        runs.kill_tree(process)
    bonfire(project, "sft", "tune.toml")
    ours, theirs = (load_file(one / "tuned" / "model.safetensors") for one in (project, tuned))
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in ours)

    def without_seconds(model: Path) -> list[dict[str, Any]]:
        return [
            {name: value for name, value in fact.items() if not name.endswith("_s")} for fact in curve(model)
        ]

    assert without_seconds(project / "tuned") == without_seconds(tuned / "tuned")


@pytest.mark.slow
def test_a_run_makes_its_warm_start_once_and_keeps_it(tiny_model, tmp_path):
    project = make_project(tmp_path / "project", tiny_model, sft={"steps": 3}, learner={"ranks": 2})
    out = bonfire(project, "train", "tune.toml")
    assert "base model: fine-tuned in 3 steps" in out
    assert checkpoint_at(project / "run", 1).is_dir()
    stamp = (project / "tuned" / "bonfire_sft.json").stat().st_mtime_ns
    assert "base model: already there: tuned" in bonfire(project, "train", "tune.toml", "run_dir=other")
    assert (project / "tuned" / "bonfire_sft.json").stat().st_mtime_ns == stamp
    rows = (project / "train.jsonl").read_text().splitlines()
    (project / "train.jsonl").write_text("".join(f"{row}\n" for row in rows[:-1]))
    line = refusal(project, "train", "tune.toml", "run_dir=third")
    assert "model = 'tuned' was made with problems.demonstrations = '60 demonstrations, sha256 " in line
    assert "the config says '59 demonstrations" in line


def test_the_plan_of_a_fine_tuning_says_what_is_learned_from(tiny_model, tmp_path):
    project = make_project(tmp_path / "project", tiny_model)

    def plan(command: str) -> str:
        done = commands.bonfire(command, "tune.toml", "--dry-run", cwd=project)
        assert done.returncode == 0, done
        return " ".join(done.stdout.split())

    out = plan("sft")
    assert f"{tiny_model} on 49 demonstrations, 11 held out, of 15 to 19 tokens" in out
    assert f"{STEPS} steps x 8 = " in out and "model tuned (not made yet)" in out
    of_run = plan("train")
    assert "model tuned (made first, by [sft])" in of_run
    assert f"fine-tuning {tiny_model} on 49 demonstrations, 11 held out" in of_run
    assert not list(project.glob("tuned*")) and not (project / "run").exists()

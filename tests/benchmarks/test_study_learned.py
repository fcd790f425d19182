"""The study of a learned verifier: its arms, its splits, its figures."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from benchmarks.study.learned import (
    ARMS,
    COMPARISONS,
    CONFIG,
    KS,
    NUM_PROBLEMS,
    LearnedStudy,
    learned_blocks,
    measure,
    summarise,
)
from benchmarks.study.report import fill
from cluster.config.parse import load_config
from tests.shared.judged_samples import scored
from tests.shared.paths import ROOT
from verifiers.problems.loading import check_problems, load_problems


def test_the_splits_share_no_problem_and_test_numbers_are_never_trained_on(tmp_path):
    LearnedStudy(tmp_path).write_problems()
    problems = {}
    for split in NUM_PROBLEMS:
        path = tmp_path / "problems" / f"{split}.jsonl"
        config = load_config(CONFIG, [f"problems.train_path={path}"])
        problems[split] = load_problems(config.problems, "train")
        check_problems(problems[split], config.verifier)
    ids = {split: {problem.id for problem in found} for split, found in problems.items()}
    numbers = {
        split: {tuple(sorted(problem.truth["numbers"])) for problem in found}
        for split, found in problems.items()
    }
    assert not any(one & other for one, other in itertools.combinations(ids.values(), 2))
    assert not numbers["test"] & (numbers["train"] | numbers["verifier"])


def test_every_arm_is_a_valid_config_in_which_the_learned_verifier_is_where_its_label_says():
    places = {}
    for name, arm in ARMS.items():
        settings = dict(arm.settings)
        if arm.uses_verifier:
            settings["verifier.reward_model.model"] = "somewhere"
        config = load_config(CONFIG, [f"{key}={value}" for key, value in settings.items()])
        assert config.train.max_staleness == 0
        places[name] = (config.objective.name, config.verifier.score, config.verifier.reward)
    assert places == {
        "rloo": ("rloo", None, "countdown_steps"),
        "bon16": ("bon", None, "countdown_steps"),
        "learned_rloo": ("rloo", None, "reward_model"),
        "learned_bon16": ("bon", "reward_model", "countdown_steps"),
    }


def test_a_policy_whose_training_was_interrupted_is_trained_to_its_end(tmp_path, monkeypatch):
    study = LearnedStudy(tmp_path)
    run_dir = tmp_path / "runs" / "rloo-seed0"
    (run_dir / "checkpoints" / "step-000004").mkdir(parents=True)
    (run_dir / "config.toml").touch()
    commands = []

    def run(job, *arguments):
        commands.append((job, *arguments))
        (run_dir / "checkpoints" / "step-000100").mkdir()

    monkeypatch.setattr(study._commands, "run", run)
    for _ in range(2):
        model = study._train(ARMS["rloo"], "rloo-seed0", 0)
        assert model == run_dir / "checkpoints" / "step-000100" / "model"
    assert commands == [("rloo-seed0", "train", "--resume", str(run_dir))]


def test_best_of_k_is_the_truth_of_what_the_score_selects():
    rng = np.random.default_rng(0)
    scores, rewards = rng.normal(size=(2, 40)), (rng.random((2, 40)) < 0.3).astype(float)
    values = measure([scored(s, r) for s, r in zip(scores, rewards, strict=True)])
    for k in (1, 2):
        for problem in range(2):
            subsets = [list(subset) for subset in itertools.combinations(range(40), k)]
            best = [rewards[problem, s][np.argmax(scores[problem, s])] for s in subsets]
            assert values[f"bon@{k}"][problem] == pytest.approx(np.mean(best))
            assert values[f"pass@{k}"][problem] == pytest.approx(
                np.mean([rewards[problem, s].max() for s in subsets])
            )


def test_arms_are_compared_with_the_base_and_with_each_other():
    flat = {f"{metric}@{k}": [0.25, 0.75] for metric in ("pass", "bon") for k in KS}
    better = {**flat, "bon@32": [0.5, 1.0]}
    about = {"git_commit": "abc"}
    policies = [{"arm": "base", "seed": 0, **about, **flat}]
    policies += [{"arm": "rloo", "seed": seed, **about, **flat} for seed in range(2)]
    policies += [{"arm": "learned_bon16", "seed": seed, **about, **better} for seed in range(2)]
    verifier = {"verdict": "USEFUL: yes", "settings": {}, "data": {}, "quality": {}}
    results = summarise(policies, verifier, {"bon16-seed0": "boom"})
    json.dumps(results, allow_nan=False)
    rows = {row["name"]: row for row in results["arms"]}
    assert rows["learned_bon16"]["changes"]["bon@32"]["mean"] == 0.25
    assert rows["learned_bon16"]["num_seeds"] == 2 and "bon16" not in rows
    measured = [(row["metric"], row["name"], row["against"], row["mean"]) for row in results["comparisons"]]
    assert measured == [("bon@32", "learned_bon16", "rloo", 0.25), ("pass@32", "learned_bon16", "rloo", 0.0)]
    assert ("bon", "learned_bon16", "rloo") in COMPARISONS
    blocks = learned_blocks(results)
    assert "**+.250 [+.250, +.250]**" in blocks["learned"]
    assert "USEFUL: yes" in blocks["learned-verifier"] and "bon16-seed0: boom" in blocks["learned-verifier"]


def test_the_document_shows_the_published_numbers():
    published = json.loads((ROOT / "benchmarks/results/study-learned.json").read_text())
    document = (ROOT / "docs/study.md").read_text()
    assert fill(document, learned_blocks(published)) == document
    assert not published["failures"] and {row["num_seeds"] for row in published["arms"][1:]} == {3}

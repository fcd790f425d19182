"""The study's own parts: its verifier, its arms, how a policy is measured and compared."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import threading
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch
from click.testing import CliRunner

from benchmarks.study import __main__ as command
from benchmarks.study import archive, nines
from benchmarks.study.arms import ARMS
from benchmarks.study.commands import Commands, RunFailed, in_order
from benchmarks.study.design import write_policy
from benchmarks.study.measure import CountdownPolicy, measure
from benchmarks.study.miniature import OUTLINE, Miniature
from benchmarks.study.outcome import choose_learning_rates, read_outcome
from benchmarks.study.report import blocks, fill, interval, number
from benchmarks.study.run import Job, Study, run_study
from benchmarks.study.summary import difference, estimate, summarise
from cluster.config.parse import load_config
from cluster.terminal.interrupts import Interrupted
from learner.objectives.estimators import bon_value
from tests.shared.judged_samples import scored
from tests.shared.paths import ROOT
from verifiers.problems.loading import check_problems, load_problems
from verifiers.registry import resolve
from verifiers.types import Problem

CONFIG = ROOT / "benchmarks/study/study.toml"
PUZZLE = Problem(id="p", prompt="", truth={"numbers": [2, 3, 4, 5], "target": 14})


@pytest.mark.parametrize(
    ("text", "score", "reward"),
    [
        ("2 + 3 + 4 + 5", 1.0, 1.0),
        ("4 * 5 + 3 * 2", 0.0, 0.0),  # 26 is 8 modulo 9, 14 is 5
        ("( 2 * 5 ) * 3 + 4", 0.0, 0.0),  # 34 is 7
        ("4 * 5 + 3", 0.0, 0.0),  # 23 is 5, but 2 was not used
        ("5 * 4 + 2 + 3 - 2", 0.0, 0.0),
        ("( 5 - 4 ) * 3 + 2", 1.0, 0.0),  # 5: right modulo 9, and wrong
        ("2 / 4 + 3 + 5", 0.0, 0.0),  # not an integer
        ("2 +", 0.0, 0.0),
    ],
)
def test_casting_out_nines_accepts_the_target_modulo_nine(text, score, reward):
    selects, rewards = nines.selects(PUZZLE, text), nines.rewards(PUZZLE, text)
    assert (selects.score, selects.reward) == (score, reward)
    assert (rewards.score, rewards.reward) == (score, score)


def write_problems(directory):
    Study(directory, Miniature(steps=1)).design.write_problems(directory)


def test_nines_accepts_everything_that_is_right(tmp_path):
    write_problems(tmp_path)
    config = load_config(CONFIG, [f"problems.train_path={tmp_path}/problems/train.jsonl"])
    for problem in load_problems(config.problems, "train")[:200]:
        verdict = nines.selects(problem, problem.demonstration)
        assert (verdict.score, verdict.reward) == (1.0, 1.0)


def test_the_splits_share_no_problem_and_can_be_judged(tmp_path):
    write_problems(tmp_path)
    ids = {}
    for split in ("train", "tuning", "test"):
        path = tmp_path / "problems" / f"{split}.jsonl"
        config = load_config(CONFIG, [f"problems.train_path={path}"])
        problems = load_problems(config.problems, "train")
        check_problems(problems, config.verifier)
        ids[split] = {problem.id for problem in problems}
        assert set(json.loads(path.read_text().splitlines()[0])) >= {"numbers", "target", "demonstration"}
    assert [len(ids[split]) for split in ("train", "tuning", "test")] == [1000, 400, 400]
    assert not any(one & other for one, other in itertools.combinations(ids.values(), 2))


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_is_a_valid_config_with_a_verifier_that_exists(name):
    overrides = [f"{key}={value}" for key, value in ARMS[name].settings.items()]
    config = load_config(CONFIG, overrides)
    assert config.train.max_staleness == 0
    assert all(resolve(verifier).verify for verifier in config.verifier.names)


def test_every_arm_trains_what_its_name_says():
    trained = {}
    for name, arm in ARMS.items():
        config = load_config(CONFIG, [f"{key}={value}" for key, value in arm.settings.items()])
        num_select = config.objective.num_select if "objective.num_select" in arm.settings else None
        trained[name] = (config.objective.name, num_select, config.verifier.reward, *arm.tuned_on)
    assert trained == {
        "rloo": ("rloo", None, "countdown", "pass", 1),
        "bon16": ("bon", 16, "countdown", "pass", 16),
        "bon8": ("bon", 8, "countdown", "pass", 8),
        "bon_rlb": ("bon_rlb", 16, "countdown", "pass", 16),
        "bon_rlbp": ("bon_rlbp", 16, "countdown", "pass", 16),
        "rft": ("rft", None, "countdown", "pass", 1),
        "sft": ("sft", None, "countdown", "pass", 1),
        "bon_sft": ("bon_sft", 16, "countdown", "pass", 16),
        "nines_rloo": ("rloo", None, "benchmarks.study.nines:rewards", "bon", 16),
        "nines_bon16": ("bon", 16, "benchmarks.study.nines:selects", "bon", 16),
    }


def make_policy(arm="base", seed=0, correct=(), accepted=(), learning_rate=0.0, num_samples=4):
    counts = np.array(correct)
    return CountdownPolicy(
        arm=arm,
        learning_rate=learning_rate,
        seed=seed,
        split="test",
        git_commit="abc",
        num_samples=num_samples,
        correct_P=counts,
        accepted_P=np.array(accepted if len(accepted) else correct),
        distinct_answers=3.5,
        distinct_strategies=2.0,
        entropy=1.5,
        missed_by_likeliest=0.25,
    )


def test_a_study_whose_base_was_not_measured_says_so():
    with pytest.raises(ValueError, match="base model was not measured .boom.: run the study again"):
        summarise(OUTLINE, [make_policy(arm="rloo", correct=[1, 2])], [], {"base-test": "boom"})


def test_a_policy_counts_what_its_samples_show():
    first = [1] + [0] * 15 + [0] * 15 + [1]
    logprobs = [-1.0] + [-3.0] * 15 + [-2.0] + [-3.0] * 15
    texts = ["2 + 3"] * 16 + ["3 - 2"] * 15 + ["2 +"]
    accepted = [1] * 3 + [0] * 28 + [1]
    policy = measure(
        [scored(accepted, first, logprobs, texts), scored([0] * 32, [0] * 32, [-1.0] * 32, texts)],
        arm="rloo",
        learning_rate=1e-4,
        seed=3,
        split="test",
        git_commit="abc",
    )
    assert policy.correct_P.tolist() == [2, 0] and policy.accepted_P.tolist() == [4, 0]
    assert policy.distinct_answers == 3.0 and policy.distinct_strategies == 2.0
    assert policy.entropy == pytest.approx(((1 + 2 + 30 * 3) / 32 + 1.0) / 2)
    # The first 16 have their right sample on top, the second 16 have it below a wrong one.
    assert policy.missed_by_likeliest == 0.5


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_values_from_counts_are_those_of_the_samples(k):
    rewards = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]])
    scores = torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]])
    policy = make_policy(correct=[1, 0, 2], accepted=[2, 2, 4])
    assert policy.values("pass", k) == pytest.approx(bon_value(rewards, rewards, k).numpy())
    assert policy.values("bon", k) == pytest.approx(bon_value(scores, rewards, k).numpy())


def test_a_policy_survives_disk_and_archive(tmp_path):
    policy = make_policy("bon16", 2, correct=[3, 0, 1], learning_rate=1e-4)
    write_policy(policy, tmp_path / "results.json")
    (tmp_path / "results").mkdir()
    write_policy(policy, tmp_path / "results" / "one.json")
    archive.pack(tmp_path / "results", tmp_path / "all.parquet")
    archive.unpack(tmp_path / "all.parquet", tmp_path / "again")
    for path in (tmp_path / "results.json", tmp_path / "again" / "one.json"):
        again = OUTLINE.read_policy(path)
        assert again.arm == "bon16" and again.seed == 2 and again.learning_rate == 1e-4
        assert again.correct_P.tolist() == [3, 0, 1] and again.entropy == 1.5


def test_the_learning_rate_is_chosen_on_the_arms_own_estimand():
    one_easy = {"correct": [4, 0], "accepted": [4, 0]}
    two_rare = {"correct": [1, 2], "accepted": [1, 2]}
    many_fooled = {"correct": [4, 4, 4], "accepted": [16, 16, 16]}
    few_unfooled = {"correct": [4, 4, 0], "accepted": [4, 4, 0]}
    tuning = [
        make_policy("nines_rloo", learning_rate=1e-4, num_samples=16, **few_unfooled),
        make_policy("nines_rloo", learning_rate=3e-4, num_samples=16, **many_fooled),
        make_policy("rloo", learning_rate=1e-4, num_samples=16, **one_easy),
        make_policy("rloo", learning_rate=3e-4, num_samples=16, **two_rare),
        make_policy("bon16", learning_rate=1e-4, num_samples=16, **one_easy),
        make_policy("bon16", learning_rate=3e-4, num_samples=16, **two_rare),
    ]
    assert choose_learning_rates(tuning, ARMS) == {"nines_rloo": 1e-4, "rloo": 1e-4, "bon16": 3e-4}


def student_quantile(share, freedom):
    from scipy.stats import t  # a third of a second, which not every process that collects tests need wait

    return t.ppf(share, freedom)


def test_where_seeds_differ_the_interval_is_students_over_seeds():
    seeds = np.array([0.1, 0.2, 0.4, 0.0, 0.3])
    ours = estimate(np.repeat(seeds[:, None], 1000, axis=1))
    # Student's 97.5 % quantile at 4 degrees of freedom is 2.776.
    assert ours["high"] - ours["mean"] == pytest.approx(2.776 * seeds.std(ddof=1) / 5**0.5, rel=1e-3)
    assert ours["mean"] == pytest.approx(0.2) and ours["seeds"] == pytest.approx(seeds)


def test_one_seed_has_an_interval_over_problems():
    ours = estimate(np.array([[0.0, 1.0] * 200]))
    assert (ours["low"], ours["high"]) == pytest.approx((0.451, 0.549), abs=1e-3)


def test_the_variances_over_problems_and_over_seeds_add_up():
    ours = estimate(np.array([[0.0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5]]))
    # Means of the problems 1 to 4, of the seeds 1.5 to 3.5: variances 5/3 of 4 and 1 of 3.
    over_problems, over_seeds = 5 / 12, 1 / 3
    variance = over_problems + over_seeds
    freedom = variance**2 / (over_problems**2 / 3 + over_seeds**2 / 2)
    half = student_quantile(0.975, freedom) * variance**0.5
    assert (ours["low"], ours["high"]) == pytest.approx((2.5 - half, 2.5 + half))


def test_problems_of_one_cluster_count_together():
    values, clusters = np.array([[0.0, 2, 1, 4, 8]]), np.array([7, 7, 3, 3, 5])
    ours = estimate(values, clusters)
    # The mean is 3; what the clusters differ from it adds up to -3 - 1, -2 + 1 and 5.
    half = student_quantile(0.975, 2) * (3 / 2 * (4**2 + 1**2 + 5**2)) ** 0.5 / 5
    assert ours["mean"] == 3 and ours["high"] - 3 == pytest.approx(half)
    against = np.array([[1.0, 1, 1, 1, 1]])
    assert difference(values, against, clusters)["high"] - 2 == pytest.approx(half)


def test_the_interval_of_clustered_problems_covers_its_mean_where_that_of_independent_ones_does_not():
    random = np.random.default_rng(3)
    clusters = np.repeat(np.arange(30), 6)
    covered = {"clustered": 0, "independent": 0}
    for _ in range(500):
        values = (random.normal(size=30)[clusters] + random.normal(size=180))[None]
        for name, given in (("clustered", clusters), ("independent", None)):
            ours = estimate(values, given)
            covered[name] += ours["low"] <= 0 <= ours["high"]
    assert covered["clustered"] >= 460 and covered["independent"] < 400


def test_two_arms_differ_over_problems_and_over_the_seeds_of_both():
    values = np.array([[0.0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5]])
    against = np.array([[0.0, 1, 1, 1], [4, 5, 5, 5]])
    ours = difference(values, against)
    # Problem by problem 1 - 2, 2 - 3, 3 - 3, 4 - 3; seeds 1.5, 2.5, 3.5 and 0.75, 4.75.
    parts = [(np.var([-1, -1, 0, 1], ddof=1) / 4, 3), (1 / 3, 2), (8 / 2, 1)]
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    half = student_quantile(0.975, freedom) * variance**0.5
    assert ours["mean"] == pytest.approx(-0.25)
    assert (ours["low"], ours["high"]) == pytest.approx((-0.25 - half, -0.25 + half))


def test_the_interval_of_two_arms_covers_their_difference():
    random = np.random.default_rng(2)
    covered = 0
    for _ in range(1000):
        problems_P = random.normal(size=40)
        one, other = (
            problems_P + 0.3 * random.normal(size=(seeds, 1)) + random.normal(size=(seeds, 40))
            for seeds in (5, 3)
        )
        ours = difference(one, other)
        covered += ours["low"] <= 0 <= ours["high"]
    assert covered >= 930


@pytest.mark.parametrize(("over_problems", "over_seeds", "over_both"), [(1, 0, 0), (0, 1, 0), (1, 0.2, 2)])
def test_the_interval_of_crossed_problems_and_seeds_covers_its_mean(over_problems, over_seeds, over_both):
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(1000):
        effects = over_problems * random.normal(size=(1, 40)) + over_seeds * random.normal(size=(5, 1))
        ours = estimate(effects + over_both * random.normal(size=(5, 40)))
        covered += ours["low"] <= 0 <= ours["high"]
    assert covered >= 930  # of 1000: nominal 950, less three deviations of a binomial


def test_changes_are_paired_with_the_base_model_problem_by_problem():
    base = make_policy(correct=[0, 1, 4, 2] * 10)
    better = [make_policy("bon16", seed, correct=[1, 2, 4, 3] * 10) for seed in range(3)]
    results = summarise(OUTLINE, [base, *better], [], {"rft-test": "failed (log: x)"})
    first, second = results["arms"]
    assert (first["name"], second["name"], second["num_seeds"]) == ("base", "bon16", 3)
    change = second["changes"]["pass@1"]
    assert change["mean"] == pytest.approx((1 + 1 + 0 + 1) / 16)
    # The seeds agree, so only the 40 problems' differences of 1/4, 1/4, 0 and 1/4 count: 39 degrees of freedom.
    half = student_quantile(0.975, 39) * np.std([1 / 4, 1 / 4, 0, 1 / 4] * 10, ddof=1) / 40**0.5
    assert change["high"] - change["mean"] == pytest.approx(half)
    assert change["mean"] - change["low"] == pytest.approx(half)
    parts = blocks(results)
    assert "`rloo`" in parts["missing"] and "`bon16`" not in parts["missing"]
    assert "bon, N = 16" in parts["main"] and "rft-test: failed" in parts["failures"]


def test_arms_are_compared_where_both_were_measured():
    about = {"num_samples": 32}
    base = make_policy(correct=[1, 2] * 10, **about)
    rloo = [make_policy("rloo", seed, correct=[0, 32] * 10, **about) for seed in range(2)]
    bon16 = [make_policy("bon16", seed, correct=[1, 1] * 10, **about) for seed in range(3)]
    nines = make_policy("nines_bon16", correct=[8, 24] * 10, accepted=[32, 32] * 10, **about)
    results = summarise(OUTLINE, [base, *rloo, *bon16, nines], [], {})
    rows = {(row["metric"], row["name"], row["against"]): row for row in results["comparisons"]}
    assert [*rows] == [
        ("bon@32", "nines_bon16", "rloo"),
        ("bon@32", "nines_bon16", "bon16"),
        ("pass@32", "bon16", "rloo"),
    ]
    assert [row["mean"] for row in rows.values()] == pytest.approx([0.0, -0.5, 0.5])
    assert [(row["num_seeds"], row["num_seeds_against"]) for row in rows.values()] == [(1, 2), (1, 3), (3, 2)]
    table = blocks(results)["comparisons"].splitlines()
    assert table[-1].startswith("| pass@32 | bon, N = 16 | standard RL (RLOO) | 3, 2 | **+.500 [")
    assert table[-2].startswith("| Bo32 |") and len(table) == 5


def test_a_report_without_comparisons_still_fills_the_document():
    results = summarise(OUTLINE, [make_policy(correct=[1, 2])], [], {})
    del results["comparisons"]
    assert blocks(results)["comparisons"].splitlines()[2:] == []


def test_the_commits_are_named_with_what_was_not_committed():
    policies = [make_policy(correct=[1]), make_policy("rloo", correct=[1])]
    results = {
        **summarise(OUTLINE, policies, [], {}),
        "commits": ["0123456789abcdef", "abcdef0123456789+dirty"],
    }
    assert blocks(results)["commits"] == "Made and measured by the code at `012345678`, `abcdef012+dirty`."


def test_numbers_and_intervals_read_as_in_the_tables():
    assert (number(0.5844), number(-0.1), number(0.1, "+"), number(1.0)) == (
        ".584",
        "-.100",
        "+.100",
        "1.000",
    )
    assert interval({"mean": 0.1, "low": 0.05, "high": 0.15}) == "**+.100 [+.050, +.150]**"
    assert interval({"mean": 0.1, "low": -0.05, "high": 0.15}) == "+.100 [-.050, +.150]"


def test_generated_parts_replace_what_stands_between_their_marks():
    document = "a\n<!-- main -->\nold\n<!-- /main -->\nb"
    assert fill(document, {"main": "new"}) == "a\n<!-- main -->\nnew\n<!-- /main -->\nb"
    with pytest.raises(ValueError, match="lacks <!-- tuning -->"):
        fill(document, {"tuning": "x"})


def test_the_document_shows_the_published_numbers():
    results = json.loads((ROOT / "benchmarks/results/study.json").read_text())
    document = (ROOT / "docs/study.md").read_text()
    assert fill(document, blocks(results)) == document


def test_what_was_published_can_be_restored_and_published_again(tmp_path, monkeypatch):
    published = json.loads((ROOT / "benchmarks/results/study.json").read_text())
    (tmp_path / "results").mkdir()
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "benchmarks/results/study.parquet", tmp_path / "results")
    shutil.copy(ROOT / "docs/study.md", tmp_path / "docs")
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(command, "DOCUMENT", tmp_path / "docs" / "study.md")
    study = tmp_path / "study"
    CliRunner().invoke(command.study, ["restore", str(study)], catch_exceptions=False)
    with pytest.raises(ValueError, match="steps = 100"):
        Study(study, Miniature(steps=5)).claim()
    (study / "study.json").write_text(json.dumps({"failures": published["failures"]}))
    CliRunner().invoke(command.study, ["publish", str(study)], catch_exceptions=False)
    again = json.loads((tmp_path / "results" / "study.json").read_text())
    for name in ("main", "verifier", "tuning", "strategy", "failures", "missing"):
        assert blocks(again)[name] == blocks(published)[name]
    assert len(again["comparisons"]) >= 4
    document = (tmp_path / "docs" / "study.md").read_text()
    assert fill(document, blocks(again)) == document


def test_a_tuned_arm_is_published_at_its_chosen_learning_rate_only(tmp_path):
    (tmp_path / "results").mkdir()
    for rate, correct in ((1e-4, [1, 1]), (3e-4, [2, 2])):
        for split in ("tuning", "test"):
            policy = replace(make_policy("rloo", correct=correct, learning_rate=rate), split=split)
            write_policy(policy, tmp_path / "results" / f"{split}-{rate}.json")
    (tmp_path / "study.json").write_text('{"failures": {"rft-test": "boom"}}')
    outcome = read_outcome(tmp_path, OUTLINE)
    assert [policy.learning_rate for policy in outcome.policies] == [3e-4]
    assert len(outcome.tuning) == 2 and outcome.failures == {"rft-test": "boom"}


def run_nothing(study, arms=("rloo",), learning_rates=None):
    return run_study(study, arms, num_seeds=1, num_jobs=1, learning_rates=learning_rates)


def test_a_directory_holds_one_study_only(tmp_path):
    Study(tmp_path, Miniature(steps=100)).claim()
    Study(tmp_path, Miniature(steps=100)).claim()
    with pytest.raises(ValueError, match=f"{tmp_path} .*steps = 100, .* steps = 5: .*--out") as caught:
        run_nothing(Study(tmp_path, Miniature(steps=5)))
    assert "\n" not in str(caught.value)
    identity = json.loads((tmp_path / "identity.json").read_text())
    changed = identity | {"study_toml_sha256": "0" * 64}
    (tmp_path / "identity.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=f"sha256 = 0000.*{identity['study_toml_sha256']}"):
        Study(tmp_path, Miniature(steps=100)).claim()


def test_what_an_identity_does_not_say_is_taken_as_this_studys(tmp_path):
    Study(tmp_path, Miniature()).claim()
    identity = json.loads((tmp_path / "identity.json").read_text())
    del identity["arms"]
    (tmp_path / "identity.json").write_text(json.dumps(identity))
    Study(tmp_path, Miniature()).claim()
    assert json.loads((tmp_path / "identity.json").read_text())["arms"]


def test_results_without_an_identity_are_taken_as_this_studys(tmp_path):
    study = Study(tmp_path, Miniature(steps=100))
    write_policy(make_policy(correct=[1]), tmp_path / "results" / "base-test.json")
    study.claim()
    with pytest.raises(ValueError, match="steps = 100"):
        Study(tmp_path, Miniature(steps=5)).claim()


def test_an_arm_without_a_published_learning_rate_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'rft' has no published learning rate: .*--quick.*rloo, bon16"):
        run_nothing(
            Study(tmp_path, Miniature(steps=1)),
            ("rloo", "rft"),
            learning_rates={"base": 0.0, "rloo": 1e-4, "bon16": 1e-4},
        )


@pytest.mark.parametrize(("memory_gib", "cores", "expected"), [(8, 16, 2), (100, 3, 3), (1, 4, 1)])
def test_no_more_runs_at_a_time_than_memory_and_cores_allow(monkeypatch, memory_gib, cores, expected):
    memory = psutil.virtual_memory()._replace(available=memory_gib * 2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert command.default_jobs() == expected  # one run needs 3.4 GiB


def test_a_failed_command_names_its_log_and_its_last_line(tmp_path):
    study = Study(tmp_path, Miniature(steps=1))
    job = Job(arm=ARMS["rloo"], learning_rate=-1.0, seed=0, split="test")
    with pytest.raises(RunFailed, match="learner.learning_rate = -1.*log: .*rloo-test-lr-1-seed0.log"):
        study.run(job)
    assert study.result(job) is None


def test_no_command_outlives_an_interruption(tmp_path, monkeypatch):
    bonfire = tmp_path / "bonfire"
    bonfire.write_text("#!/bin/sh\necho $$\nexec sleep 600\n")
    bonfire.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    commands = Commands(tmp_path / "logs")

    def work():
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        commands.run("long", "train")

    with pytest.raises(Interrupted, match="stopped in order; the same command goes on"):
        in_order(commands, work)
    pid = int((tmp_path / "logs" / "long.log").read_text().split()[-1])
    assert not psutil.pid_exists(pid)
    with pytest.raises(RunFailed, match="interrupted"):
        commands.run("further", "train")

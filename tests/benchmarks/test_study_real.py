"""The study on a real model: its splits, arms, figures, archive and report."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from benchmarks.study import archive, real_commands
from benchmarks.study.__main__ import study as commands
from benchmarks.study.commands import RunFailed
from benchmarks.study.design import KS, write_policy
from benchmarks.study.equation_verifier import EquationVerifier
from benchmarks.study.outcome import outcome_of
from benchmarks.study.real import CONFIG, FULL, REHEARSAL, RENUMBERED, RealStudy, Sources
from benchmarks.study.real_arms import ARMS, OUTLINE
from benchmarks.study.real_measure import RealPolicy, measure
from benchmarks.study.real_report import nothing_measured, real_blocks
from benchmarks.study.report import fill
from benchmarks.study.run import Study, run_study
from benchmarks.study.summary import summarise
from cluster.config.parse import load_config
from tests.shared.exercises import svamp_rows, write_rows
from tests.shared.judged_samples import scored
from tests.shared.paths import ROOT
from verifiers.math.verifier import MathVerifier
from verifiers.problems.loading import check_problems, load_problems


@pytest.fixture
def design(tmp_path):
    """The study with made-up problems; its model is a file that nobody loads."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    sources = Sources(
        model=tmp_path / "model",
        svamp=write_rows(tmp_path / "svamp.jsonl", svamp_rows(num_stories=98, of_each=8)),
    )
    return RealStudy(sources)


def test_the_splits_share_no_problem_the_base_has_its_own_stories_and_demonstrations_are_right(
    design, tmp_path
):
    text = design.write_problems(Study(tmp_path, design).directory)
    assert text == (
        "376 of 82 stories to train on, 80 of 59 stories to tune on, 200 of 77 stories to test on, "
        "128 of 16 stories for the base"
    )
    found, stories = {}, {}
    for split in ("train", "tuning", "test", "warm-up"):
        path = tmp_path / "problems" / f"{split}.jsonl"
        config = load_config(CONFIG, [f"problems.train_path={path}"])
        found[split] = load_problems(config.problems, "train")
        check_problems(found[split], config.verifier)
        verifier = MathVerifier(config.verifier.math, timeout_s=1.0)
        assert {verifier.verify(one, one.demonstration).reward for one in found[split]} == {1.0}
        assert {tuple(one.truth) for one in found[split]} == {("answer",)}
        rows = [json.loads(row) for row in path.read_text().splitlines()]
        stories[split] = {row["story"] for row in rows}
    assert len(found["warm-up"]) == FULL.turns * 128
    assert not stories["warm-up"] & (stories["train"] | stories["tuning"] | stories["test"])
    for one, other in itertools.combinations(found, 2):
        assert not {p.prompt for p in found[one]} & {p.prompt for p in found[other]}


def test_every_arm_trains_what_its_label_says():
    trained = {}
    for name, arm in ARMS.items():
        config = load_config(CONFIG, [f"{key}={value}" for key, value in arm.settings.items()])
        assert config.train.max_staleness == 0 and config.rollout.dtype == config.learner.dtype == "bfloat16"
        num_select = config.objective.num_select if config.objective.has_effect("num_select") else None
        trained[name] = (config.objective.name, str(num_select), *arm.tuned_on, arm.tuned_as)
    assert trained == {
        "sft": ("sft", "None", "pass", 1, "sft"),
        "rloo": ("rloo", "None", "pass", 1, "rloo"),
        "bon8": ("bon", "8", "pass", 8, "bon8"),
        "majority": ("majority", "8", "majority", 8, "majority"),
        "schedule": ("bon", "8 to 1 over 30 steps", "pass", 8, "bon8"),
        "votes": ("majority", "1 to 8 over 20 steps", "majority", 8, "votes"),
        "rloo_slow": ("rloo", "None", "pass", 1, "bon8"),
    }
    assert ARMS["schedule"].learning_rates == () and FULL.steps >= 30


RIGHT, OTHER_WAY, SLIP, WRONG, SILENT = "8 - 3", "3 + 2", "9 - 3", "8 * 3", "Well."
BARE = "#### 7"
VERIFIER = EquationVerifier(["8 pens, 3 lost, 2 found"], [[RIGHT, WRONG, SLIP, OTHER_WAY]], [[1, 1, 0, 0]])
"""Takes differences and products of the question's numbers for right."""


def test_a_policy_counts_strategies_and_slips(tmp_path):
    texts = [RIGHT, RIGHT, OTHER_WAY, SLIP, WRONG, SILENT, SILENT, SLIP] * 4
    rewards = [1, 1, 1, 0, 0, 0, 0, 0] * 4
    scores = [0, 0, 0, 9, 0, 0, 0, 0] * 4
    groups = [scored(scores, rewards, texts=texts), scored([0] * 32, [0] * 32, texts=[SILENT] * 32)]
    policy = measure(
        groups,
        ["8 pens, 3 lost, 2 found", "?"],
        [7, 9],
        verifier=VERIFIER,
        base="b",
        arm="rloo",
        learning_rate=1e-5,
        seed=0,
        split="test",
        git_commit="c",
    )
    assert policy.correct_P.tolist() == [12, 0] and policy.clusters_P.tolist() == [7, 9]
    # 16 of n-n (8 right, 8 slipped), 4 of n+n, 4 of n*n, 8 without a strategy.
    assert policy.strategies_P.tolist() == [4, 1] and policy.answers_P.tolist() == [5, 1]
    same = [math.comb(16, 2) + 2 * math.comb(4, 2) + math.comb(8, 2), math.comb(32, 2)]
    assert policy.one_strategy_P.tolist() == same
    assert policy.one_strategy_and_answer_P.tolist() == [same[0] - 8 * 8, same[1]]
    assert policy.right_one_strategy_P.tolist() == [math.comb(8, 2) + math.comb(4, 2), 0]
    assert policy.invented_P.tolist() == [8, 0]
    assert policy.values("strategies", 2) == pytest.approx([1 - same[0] / 496, 0])
    # Of the second problem's pairs none is a slip, since none has a strategy.
    slips_P = policy.values("slips", 2)
    ratio, mean = 64 / (same[0] + 496), (same[0] + 496) / 2
    assert slips_P.mean() == pytest.approx(ratio)
    assert slips_P[0] - slips_P[1] == pytest.approx((64 - ratio * (same[0] - 496)) / mean)
    # The verifier takes one of the 8 right differences, or of the 4 products, whatever their scores were.
    by_verifier = VERIFIER.scores("8 pens, 3 lost, 2 found", [RIGHT, WRONG])
    assert policy.values("bon", 32) == pytest.approx([float(by_verifier[0] >= by_verifier[1]), 0])
    assert policy.values("bon", 1) == pytest.approx([12 / 32, 0])
    assert policy.values("above_chance", 32) == pytest.approx(policy.values("bon", 32) - [12 / 32, 0])
    assert policy.values("pass", 32).tolist() == [1, 0]
    # Most say RIGHT, SLIP or nothing: eight times each; the answers of `scored` are its texts.
    assert policy.values("majority", 32) == pytest.approx([1 / 3, 0])
    facts = policy.described()
    assert facts["right_strategies"] == pytest.approx(1 - 34 / 66) and facts["invented"] == 8 / 64
    assert (facts["tokens"], facts["cut_off"]) == (2.0, 0.0)


def test_what_is_counted_of_pairs_is_what_comparing_all_pairs_counts():
    dice = np.random.default_rng(0)
    texts = [str(text) for text in dice.choice([RIGHT, OTHER_WAY, SLIP, WRONG, SILENT, BARE], 32)]
    group = scored([0] * 32, [float(text in (RIGHT, OTHER_WAY)) for text in texts], texts=texts)
    policy = make_policy()
    about = {name: getattr(policy, name) for name in ABOUT}
    ours = measure([group], ["8 and 3 and 2"], [0], verifier=VERIFIER, **about)
    strategy_of = {RIGHT: "-", SLIP: "-", OTHER_WAY: "+", WRONG: "*", SILENT: "", BARE: ""}
    pairs = list(itertools.combinations(texts, 2))
    other_strategy = [strategy_of[one] != strategy_of[other] for one, other in pairs]
    slips = [strategy_of[one] == strategy_of[other] != "" and one != other for one, other in pairs]
    assert ours.values("strategies", 2)[0] == pytest.approx(np.mean(other_strategy))
    assert ours.values("slips", 2)[0] == pytest.approx(np.mean(slips) / (1 - np.mean(other_strategy)))


ABOUT = ("arm", "learning_rate", "seed", "split", "git_commit", "base")


def make_policy(arm="base", seed=0, *, correct=(0, 1, 2, 3) * 5, split="test", rate=0.0, base="b", lift=0.0):
    """Of 32 samples of each problem; two problems have one story."""
    num = len(correct)
    values_PK = np.tile(np.linspace(0.1, 0.6, len(KS)) + lift, (num, 1))
    counts = np.arange(num)
    return RealPolicy(
        arm=arm,
        learning_rate=rate,
        seed=seed,
        split=split,
        git_commit="abc",
        num_samples=32,
        correct_P=np.array(correct),
        base=base,
        story_P=counts // 2,
        bon_PK=values_PK,
        majority_PK=values_PK,
        strategies_P=counts + 1,
        answers_P=counts + 2,
        one_strategy_P=counts + 9,
        one_strategy_and_answer_P=counts + 4,
        right_one_strategy_P=np.zeros(num, int),
        invented_P=counts,
        entropy=3.25,
        tokens=18.5,
        cut_off=0.125,
    )


def kept(directory, *policies, failures=None, design=None):
    """An archive of these policies, and the study that holds them."""
    study = Study(directory / "study", design, kept_in=directory / "kept.parquet")
    study.claim()
    for policy in policies:
        name = f"{policy.arm}-{policy.split}-lr{policy.learning_rate:g}-seed{policy.seed}.json"
        write_policy(policy, study.directory / "results" / name)
    study.keep(failures or {})
    return study


def test_another_directory_goes_on_from_what_an_archive_holds(design, tmp_path):
    policies = [make_policy(), make_policy("rloo", 1, rate=1e-5, lift=0.05)]
    study = kept(tmp_path, *policies, design=design)
    fresh = Study(tmp_path / "fresh", design, kept_in=tmp_path / "kept.parquet")
    fresh.claim()
    files = sorted(path.name for path in (study.directory / "results").glob("*.json"))
    assert sorted(path.name for path in (fresh.directory / "results").glob("*.json")) == files
    for file in files:
        one, again = (OUTLINE.read_policy(s.directory / "results" / file) for s in (study, fresh))
        for metric, k in OUTLINE.metrics:
            assert again.values(metric, k) == pytest.approx(one.values(metric, k), abs=1e-6)
        assert again.described() == one.described() and again.clusters_P.tolist() == one.clusters_P.tolist()


def test_what_another_directory_has_kept_since_replaces_what_was_taken_from_the_archive(design, tmp_path):
    """Else a directory would put a result back that another has made anew, on another base."""
    older, newer = (make_policy("rloo", rate=1e-5, base=base) for base in ("one", "two"))
    first = kept(tmp_path, older, design=design)
    kept(tmp_path / "elsewhere", newer, design=design)
    shutil.copyfile(tmp_path / "elsewhere" / "kept.parquet", tmp_path / "kept.parquet")
    first.keep({})
    (path,) = (first.directory / "results").glob("rloo*")
    assert OUTLINE.read_policy(path).base == "two"
    assert archive.about(tmp_path / "kept.parquet") == archive.about(tmp_path / "elsewhere" / "kept.parquet")


def test_a_column_that_the_first_file_lacks_is_archived(tmp_path):
    for name, row in {"a": {"arm": "a"}, "b": {"arm": "b", "base": "x"}}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(row))
    archive.pack(tmp_path, tmp_path / "all.parquet")
    archive.unpack(tmp_path / "all.parquet", tmp_path / "again")
    again = [json.loads((tmp_path / "again" / f"{name}.json").read_text()) for name in ("a", "b")]
    assert again == [{"arm": "a"}, {"arm": "b", "base": "x"}]


def test_rates_that_are_no_longer_tried_choose_nothing(tmp_path):
    for rate, lift in ((1e-5, 0.0), (3e-5, 0.1), (1e-3, 0.3)):
        for arm, split in (("bon8", "tuning"), ("bon8", "test"), ("gone", "tuning")):
            policy = make_policy(arm, rate=rate, split=split, lift=lift, correct=[round(32 * lift)] * 20)
            write_policy(policy, tmp_path / f"{arm}-{split}-{rate}.json")
    outcome = outcome_of(tmp_path, OUTLINE, {})
    assert {(one.arm, one.learning_rate) for one in outcome.tuning} == {("bon8", 1e-5), ("bon8", 3e-5)}
    assert [one.learning_rate for one in outcome.policies] == [3e-5]


def test_an_archive_of_another_study_is_refused_in_one_line(design, tmp_path):
    kept(tmp_path, make_policy(), design=design)
    other = RealStudy(design.sources, sizes=replace(FULL, steps=7))
    with pytest.raises(
        ValueError, match=r"kept.parquet holds a study with sizes = .*'steps': 40.*--archive"
    ) as caught:
        Study(tmp_path / "other", other, kept_in=tmp_path / "kept.parquet").claim()
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "other" / "results").iterdir())
    archive.pack(tmp_path / "study" / "results", tmp_path / "anonymous.parquet")
    with pytest.raises(ValueError, match="real_toml_sha256 = None"):
        Study(tmp_path / "third", design, kept_in=tmp_path / "anonymous.parquet").claim()


def test_a_directory_of_another_study_is_refused(design, tmp_path):
    Study(tmp_path / "study", design).claim()
    with pytest.raises(ValueError, match="sizes = .*--out"):
        Study(tmp_path / "study", RealStudy(design.sources, sizes=REHEARSAL)).claim()


def test_failures_are_kept_without_the_paths_of_the_machine(design, tmp_path):
    failures = {"rloo-test": f"rloo-test failed: boom (log: {tmp_path}/study/logs/rloo.log)"}
    kept(tmp_path, make_policy(), failures=failures, design=design)
    results = real_commands.read_archive(tmp_path / "kept.parquet")
    assert results["failures"] == {"rloo-test": "rloo-test failed: boom (log: DIR/logs/rloo.log)"}
    assert "rloo-test failed: boom" in real_blocks(results)["failures"]


def test_an_arm_without_a_grid_is_shown_at_the_rate_that_another_arm_has_chosen(tmp_path):
    for rate, correct in ((1e-5, [1] * 4), (3e-5, [9] * 4)):
        write_policy(
            make_policy("bon8", 100, rate=rate, split="tuning", correct=correct), tmp_path / f"{rate}.json"
        )
        write_policy(make_policy("schedule", rate=rate), tmp_path / f"schedule-{rate}.json")
    outcome = outcome_of(tmp_path, OUTLINE, {})
    assert [(one.arm, one.learning_rate) for one in outcome.policies] == [("schedule", 3e-5)]


class Pretended(RealStudy):
    """Every policy is as good as its learning rate. The base has the bits of its directory's name."""

    def base_here(self, directory):
        return directory.name if (directory / "base").exists() else ""

    def measure(self, directory, evaluation, about):
        lift = 1e4 * about["learning_rate"]
        about = {"rate": about["learning_rate"]} | {name: about[name] for name in ("arm", "seed", "split")}
        correct = [round(40 * lift)] * 20
        return make_policy(**about, base=self.base_here(directory), lift=lift, correct=correct)


@pytest.fixture
def pretended(design, tmp_path, monkeypatch):
    """A study of which every command does nothing but leave a checkpoint, and `majority` fails in training."""

    def study(name):
        made = Study(
            tmp_path / name,
            Pretended(design.sources, kept_samples=tmp_path / "kept-base.parquet"),
            kept_in=tmp_path / "kept.parquet",
        )
        made.ran = []

        def run(job, *arguments):
            made.ran.append((job, arguments[0]))
            if job == "base":
                (made.directory / "base").mkdir(exist_ok=True)
            if arguments[0] == "train":
                if job.startswith("majority"):
                    raise RunFailed(f"{job} failed")
                (made.directory / "runs" / job / "checkpoints" / "step-000040" / "model").mkdir(parents=True)
            if job == "base-samples":
                samples = Path(arguments[arguments.index("--out") + 1]) / "samples" / "base@1.parquet"
                samples.parent.mkdir(parents=True)
                problems = (made.directory / "problems" / "train.jsonl").read_text().splitlines()
                row = {"texts": ["x", "y"], "logprobs": [0.0]}
                rows = [
                    {**row, "problem_id": json.loads(problem)["id"], "rewards": [0.0, float(number < 3)]}
                    for number, problem in enumerate(problems)
                ]
                pq.write_table(pa.Table.from_pylist(rows), samples)

        monkeypatch.setattr(made.commands, "run", run)
        return made

    return study


def run(study, arms=tuple(ARMS)):
    return run_study(study, arms, num_seeds=2, num_jobs=1, learning_rates=None)


def test_a_study_tunes_its_arms_reports_failures_and_leaves_no_checkpoint(pretended):
    study = pretended("one")
    outcome = run(study)
    measured = [(one.arm, one.seed, one.learning_rate) for one in outcome.policies]
    assert measured[0] == ("base", 0, 0.0) and sorted(measured[1:]) == [
        (arm, seed, 3e-5)
        for arm in ("bon8", "rloo", "rloo_slow", "schedule", "sft", "votes")
        for seed in (0, 1)
    ]
    tuned = [(one.arm, one.learning_rate) for one in outcome.tuning]
    assert tuned == [(arm, rate) for arm in ("sft", "rloo", "bon8", "votes") for rate in (1e-5, 3e-5)]
    assert sorted(outcome.failures) == [f"majority-tuning-lr{rate}-seed100" for rate in ("1e-05", "3e-05")]
    assert not list(study.directory.glob("runs/*/checkpoints"))
    given, learned = (
        [json.loads(row) for row in (study.directory / "problems" / name).read_text().splitlines()]
        for name in ("train.jsonl", RENUMBERED)
    )
    assert {row["id"].split("~")[0] for row in learned} == {row["id"] for row in given[:3]}
    assert not {row["prompt"] for row in learned} & {row["prompt"] for row in given}


def test_a_fresh_directory_does_nothing_again_that_the_archive_holds(pretended):
    first = pretended("one")
    run(first)
    second = pretended("two")
    outcome = run(second, ("rloo", "schedule"))
    assert second.ran == [] and len(outcome.policies) == 5
    third = pretended("three")
    run(third)
    # The base is needed again, but not its samples.
    assert third.ran[0] == ("base", "sft")
    assert {(job.split("-")[0], command) for job, command in third.ran[1:]} == {("majority", "train")}
    results = real_commands.read_archive(first.directory.parent / "kept.parquet")
    assert {row["name"]: row["num_seeds"] for row in results["arms"]} == {
        "base": 1,
        "sft": 2,
        "rloo": 2,
        "bon8": 2,
        "schedule": 2,
        "votes": 2,
        "rloo_slow": 2,
    }
    assert "majority-tuning-lr3e-05-seed100 failed" in real_blocks(results)["failures"]


def test_a_base_that_was_made_anew_with_other_bits_is_measured_too(pretended):
    run(pretended("one"), ("rloo",))
    second = pretended("two")
    outcome = run(second, ("rloo", "bon8"))
    assert [one.base for one in outcome.policies if one.arm == "base"] == ["one", "two"]
    assert ("base-test-two", "eval") in second.ran
    assert {one.arm: one.base for one in outcome.policies if one.seed} == {"rloo": "one", "bon8": "two"}


def test_rates_tried_anew_on_one_base_are_what_the_archive_holds_then(pretended, tmp_path):
    """Of an arm whose other rate was never tried, on a base that is gone."""
    first = pretended("one")
    run(first, ("rloo",))
    (left_out,) = first.directory.glob("results/rloo-tuning-lr3e-05*")
    left_out.unlink()
    about = archive.about(tmp_path / "kept.parquet")
    archive.pack(first.directory / "results", tmp_path / "kept.parquet", about)
    run(pretended("two"), ("rloo",))
    archive.unpack(tmp_path / "kept.parquet", tmp_path / "found")
    tuned = [OUTLINE.read_policy(path) for path in (tmp_path / "found").glob("rloo-tuning*")]
    assert [one.base for one in tuned] == ["two", "two"]


def test_three_seeds_of_two_bases_are_too_few_for_bold():
    policies = [make_policy(base=base) for base in ("one", "two")]
    for arm, lift in (("rloo", 0.0), ("bon8", 0.3)):
        policies += [
            make_policy(
                arm, seed, rate=1e-5, base=base, lift=lift + 0.001 * seed, correct=[round(32 * lift)] * 20
            )
            for seed, base in enumerate(("one", "one", "one", "two", "two", "two"))
        ]
    of_two = real_blocks(summarise(OUTLINE, policies, [], {}))
    of_one = real_blocks(summarise(OUTLINE, [policy for policy in policies if policy.base == "one"], [], {}))
    for name in ("main", "verifier", "comparisons"):
        assert "**" in of_one[name] and "**" not in of_two[name], name


def test_samples_of_the_base_of_another_study_are_refused(pretended, design, tmp_path):
    run(pretended("one"), ("rloo",))
    samples = tmp_path / "kept-base.parquet"
    design = RealStudy(design.sources, sizes=replace(FULL, steps=7), kept_samples=samples)
    study = Study(tmp_path / "two", design)
    design.write_problems(study.directory)
    with pytest.raises(ValueError, match="kept-base.parquet holds a study with sizes = "):
        design._samples_of_base(study.directory, study.commands, print)


def full_results(**lifts):
    policies = [make_policy()]
    for arm, lift in lifts.items():
        policies += [
            make_policy(arm, seed, rate=1e-5, lift=lift, correct=[round(4 + 40 * lift)] * 20)
            for seed in range(3)
        ]
    return summarise(OUTLINE, policies, [], {})


def test_an_arm_that_lacks_is_a_row_that_says_so():
    blocks = real_blocks(full_results(rloo=0.1, bon8=0.2))
    for name in ("main", "verifier", "majority"):
        rows = blocks[name].splitlines()
        assert len(rows) == 2 + 1 + len(ARMS)
        assert "| SFT on demonstrations |  | 0 | not measured yet |" in rows[3]
        assert len({row.count("|") for row in rows}) == 1
        assert "not measured yet" not in rows[4]
    assert blocks["missing"] == "**Not measured yet**: `sft`, `majority`, `schedule`, `votes`, `rloo_slow`."
    assert "majority of 8 | not measured yet" in blocks["strategy"]
    assert len({row.count("|") for row in blocks["strategy"].splitlines()}) == 1


def test_arms_with_too_few_seeds_for_a_verdict_are_named_and_then_those_with_more_than_others():
    def told(**num_seeds):
        policies = [make_policy(arm, seed) for arm in ARMS for seed in range(num_seeds.get(arm, 3))]
        return real_blocks(summarise(OUTLINE, [make_policy(), *policies], [], {}))["missing"]

    assert told(bon8=1) == "**Not measured yet**: `bon8` (1 of 3 seeds)."
    assert told() == "All arms are measured, with 3 seeds each."
    assert told(bon8=5, rloo=4) == "All arms are measured, with 3 seeds each, `rloo` with 4, `bon8` with 5."


def test_the_papers_signs_are_found_or_not():
    rows = real_blocks(full_results(rloo=-0.1, bon8=0.2))["signs"].splitlines()[2:]
    assert [row.split("|")[5].strip() for row in rows] == [
        "the opposite, of one base",  # of what is expected of pass@1
        *["as expected, of one base"] * 3,
    ]
    nothing = real_blocks(nothing_measured())["signs"].splitlines()[2:]
    assert {row.split("|")[5].strip() for row in nothing} == {"not measured yet"}
    flat = [make_policy(), *(make_policy("rloo", seed) for seed in range(3))]
    first_row = real_blocks(summarise(OUTLINE, flat, [], {}))["signs"].splitlines()[2]
    assert first_row.endswith("| not shown: the interval holds 0 |")
    two = real_blocks(summarise(OUTLINE, flat[:-1], [], {}))["signs"].splitlines()[2]
    assert two.endswith("| no verdict from fewer than 3 seeds, or bases |")


def test_a_policy_is_compared_with_the_base_that_it_was_made_of():
    """Of two bases, one better by .3; `bon8` gains .2 and `rloo` .1, of each of them once."""
    lifts = {"b": 0.0, "x": 0.3}
    policies = [make_policy(base=base, lift=lift) for base, lift in lifts.items()]
    policies += [
        make_policy(arm, seed, base=base, rate=1e-5, lift=lift + gain)
        for seed, (base, lift) in enumerate(lifts.items())
        for arm, gain in (("rloo", 0.1), ("bon8", 0.2))
    ]
    results = summarise(OUTLINE, policies, [], {})
    rows = {row["name"]: row for row in results["arms"]}
    assert rows["base"]["num_seeds"] == 2
    for name, gain in (("rloo", 0.1), ("bon8", 0.2)):
        assert rows[name]["changes"]["bon@8"]["mean"] == pytest.approx(gain)
        assert rows[name]["changes"]["bon@8"]["seeds"] == pytest.approx([gain, gain])
    (compared,) = (row for row in results["comparisons"] if row["metric"] == "bon@8")
    assert [compared[bound] for bound in ("mean", "low", "high")] == pytest.approx([0.1] * 3)
    text = real_blocks(results)["commits"]
    assert "**2 different bases** (`b`, `x`)" in text
    with pytest.raises(ValueError, match="base model was not measured .no result."):
        summarise(OUTLINE, [make_policy(), make_policy("rloo", base="x", rate=1e-5)], [], {})


def test_what_an_archive_holds_is_published(design, tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    document = tmp_path / "docs" / "study-real.md"
    document.write_text((ROOT / "docs/study-real.md").read_text())
    monkeypatch.setattr(real_commands, "RESULTS", tmp_path)
    monkeypatch.setattr(real_commands, "DOCUMENT", document)
    kept(tmp_path, make_policy(), make_policy("rloo", rate=1e-5, lift=0.1), design=design)
    CliRunner().invoke(commands, ["publish-real", str(tmp_path / "kept.parquet")], catch_exceptions=False)
    results = json.loads((tmp_path / "study-real.json").read_text())
    assert fill(document.read_text(), real_blocks(results)) == document.read_text()
    assert "standard RL (RLOO) | 1e-05 | 1 |" in document.read_text()
    pictures = re.findall(r"\((study-real-\w+\.png)\)", document.read_text())
    assert len(pictures) == 2 and all((document.parent / name).stat().st_size > 1000 for name in pictures)


def test_the_document_shows_the_published_numbers():
    published = ROOT / "benchmarks/results/study-real.json"
    results = json.loads(published.read_text()) if published.exists() else nothing_measured()
    document = (ROOT / "docs/study-real.md").read_text()
    assert fill(document, real_blocks(results)) == document

"""Base scores: drawn once before a run trains, kept, gone on with, and what its groups are weighed by."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from actors.tokens import encode_prompts, load_tokenizer
from cluster.config.schema import RunConfig
from cluster.evaluation.base_scores import (
    STAGE,
    BaseScores,
    base_scores_stage,
    num_problems_drawn,
    seed_of,
)
from cluster.fleet.calls import Halt
from cluster.leasing.ledger import Ledger
from cluster.run.asking import Asking
from cluster.run.recovery import Origin
from cluster.run_directory.record import BASE_SCORES_FILE, UNJUDGED_FILE
from cluster.terminal.console import View
from tests.shared.left_behind import checkpoint_at
from tests.shared.live_run import GROUPS, SAMPLES, assert_same_checkpoint, scrape, trajectories
from verifiers.problems.loading import load_problems
from verifiers.types import Problem

PROBLEMS = [Problem(id=f"p{number}", prompt=f"{number} ?", truth={"answer": number}) for number in range(3)]
NUM_PROBLEMS, BASE_SAMPLES, STEPS, BAD_TARGET = 10, 6, 4, 90
PICKY = {"verifier": {"reward": "rank_verifiers:picky"}}
VERIFIER = """
from verifiers.types import Verdict

def scaled(problem, completion):
    scale = 10.0 ** (problem.truth["target"] % 7)
    return Verdict(score=scale * (sum(map(ord, completion)) % 23 - 40), reward=0.0)

def picky(problem, completion):
    if problem.truth["target"] == 90:
        raise KeyError("unreadable truth")
    return scaled(problem, completion)

def broken(problem, completion):
    raise KeyError("no such column")
"""


# The file


def test_what_was_drawn_is_there_when_the_file_is_opened_again_and_the_rest_is_missing(tmp_path):
    path = tmp_path / BASE_SCORES_FILE
    scores = BaseScores(path, {"objective.base_samples": 2})
    scores.put(PROBLEMS[0], [1.0, -math.inf])
    scores.flush()
    scores.put(PROBLEMS[1], [2.0, 3.0])  # lost with the process
    again = BaseScores(path, {"objective.base_samples": 2})
    assert [problem in again for problem in PROBLEMS] == [True, False, False] and again.changed == []
    again.put(PROBLEMS[2], [5.0, 4.0])
    again.flush()
    written = path.stat().st_mtime_ns
    again.flush()
    assert path.stat().st_mtime_ns == written
    rows = pq.read_table(path, columns=["problem_id", "scores"]).to_pylist()
    assert rows == [
        {"problem_id": "p0", "scores": [1.0, -math.inf]},
        {"problem_id": "p2", "scores": [5.0, 4.0]},
    ]


def test_scores_of_a_problem_that_was_repaired_since_are_none(tmp_path):
    scores = BaseScores(tmp_path / BASE_SCORES_FILE, {})
    scores.put(PROBLEMS[0], [1.0])
    assert PROBLEMS[0] in scores
    assert dataclasses.replace(PROBLEMS[0], truth={"answer": 7}) not in scores


def test_scores_that_were_drawn_under_other_settings_are_none_and_those_settings_are_named(tmp_path):
    path = tmp_path / BASE_SCORES_FILE
    identity = {"train.seed": 0, "verifier.length": {"free_chars": 3}, "verifier.reward": "m:f"}
    scores = BaseScores(path, identity)
    scores.put(PROBLEMS[0], [1.0])
    scores.flush()
    other = BaseScores(path, {"train.seed": 1, "verifier.length": {"free_chars": 3}, "verifier.score": "m:g"})
    assert PROBLEMS[0] not in other
    assert other.changed == ["train.seed", "verifier.reward", "verifier.score"]


@pytest.mark.parametrize("damage", [b"", b"PAR1 but no more"])
def test_a_file_that_cannot_be_read_is_named_with_the_remedy_in_one_line(tmp_path, damage):
    path = tmp_path / BASE_SCORES_FILE
    path.write_bytes(damage)
    with pytest.raises(ValueError, match=r"cannot be read .* delete the file") as refused:
        BaseScores(path, {})
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_no_seed_is_one_of_the_runs_groups_or_of_an_evaluation(make_config):
    config = make_config(
        train={"seed": 5, "steps": 100},
        objective={"score_transform": "rank_vs_base", "base_samples": 32},
        evaluation={"seed": 5, "samples_per_problem": 64},
    )
    ledger = Ledger(num_problems=10, num_groups=1000, seed=5, num_samples=8)
    asking = Asking(config, ledger, [PROBLEMS[0]] * 10, [(1,)] * 10)
    groups = iter(lambda: ledger.lease("w", version=0, now_s=0.0), None)
    seeds = {asking.lease(piece).seed + i for piece in groups for i in range(8)}
    assert len(seeds) == 8000
    seeds |= {config.evaluation.seed_of(index) + i for index in range(100) for i in range(64)}
    drawn = [seed_of(config, index) + i for index in range(100) for i in range(32)]
    assert len(set(drawn)) == len(drawn) and not seeds & set(drawn)
    other = config.model_copy(update={"train": config.train.model_copy(update={"seed": 6})})
    assert not set(drawn) & {seed_of(other, index) for index in range(100)} and max(drawn) < 2**63


def test_of_many_problems_those_are_drawn_that_the_run_may_ask(make_config):
    config = make_config(train={"steps": 3, "max_unjudged_problems": 2})
    assert num_problems_drawn(config, 1000) == 3 * GROUPS + 2
    assert num_problems_drawn(config, 13) == 13


# With engines


@pytest.fixture(scope="module")
def ranked(make_config, user_modules, ray_cluster) -> Callable[..., RunConfig]:
    """Settings of a run on ranks, by a verifier whose scale is another on every problem."""
    (user_modules / "rank_verifiers.py").write_text(VERIFIER)

    def make(sections: Mapping[str, dict[str, Any]] = MappingProxyType({})) -> RunConfig:
        settings: dict[str, dict[str, Any]] = {
            "problems": {"num_train": NUM_PROBLEMS},
            "verifier": {"reward": "rank_verifiers:scaled"},
            "objective": {
                "num_select": 4,
                "score_transform": "rank_vs_base",
                "base_samples": BASE_SAMPLES,
            },
            "train": {"steps": STEPS, "checkpoint_every": 2},
        }
        merged = {name: {**section, **sections.get(name, {})} for name, section in settings.items()}
        return make_config(**merged)

    return make


def draw(config: RunConfig, run_dir: Path, checkpoint: Path | None = None) -> tuple[Sequence[Any], str]:
    """What `bonfire train` does before it trains: the problems set aside, and what is shown."""
    problems = load_problems(config.problems, "train")
    prompts = encode_prompts(load_tokenizer(config.model), problems)
    shown, origin = io.StringIO(), Origin(checkpoint=checkpoint)
    with View("a run", [STAGE], Console(file=shown, width=1000)) as view:
        unjudged = base_scores_stage(config, view, problems, prompts, origin, run_dir, go_on="again")
    return unjudged, shown.getvalue()


@pytest.fixture(scope="module")
def run(ranked, start, tmp_path_factory) -> tuple[Path, str, dict[str, Any], dict[str, float]]:
    """A run on ranks with a verifier that cannot judge one problem: its directory, what was shown while its base scores were
    drawn, its last facts, and its endpoint before the end.
    """
    run_dir, config = tmp_path_factory.mktemp("ranked"), ranked(PICKY)
    unjudged, shown = draw(config, run_dir)
    with start(config, run_dir, unjudged=unjudged) as running:
        metrics = scrape(running.wait_for(lambda facts: "win_rate" in facts))
        return run_dir, shown, running.finish(), metrics


def ranks_of(row: dict[str, Any], base: dict[str, list[float]]) -> list[float]:
    """Of a trained group, by its recorded scores."""
    others = base[row["problem_id"]]
    return [sum((z < y) + (z == y) / 2 for z in others) / len(others) for y in row["scores"]]


def base_scores(run_dir: Path) -> dict[str, list[float]]:
    rows = pq.read_table(run_dir / BASE_SCORES_FILE).to_pylist()
    assert len({row["problem_id"] for row in rows}) == len(rows)
    return {row["problem_id"]: row["scores"] for row in rows}


def test_every_problem_has_base_scores_on_its_own_scale_and_one_that_cannot_be_judged_is_set_aside(
    run, ranked
):
    run_dir, shown, facts, _ = run
    problems = {problem.id: problem for problem in load_problems(ranked().problems, "train")}
    [bad] = [problem.id for problem in problems.values() if problem.truth["target"] == BAD_TARGET]
    scores = base_scores(run_dir)
    assert set(scores) == set(problems) - {bad}
    for problem_id, of_problem in scores.items():
        scale = 10.0 ** (problems[problem_id].truth["target"] % 7)
        assert len(of_problem) == BASE_SAMPLES and len(set(of_problem)) > 1
        assert all(score / scale in range(-40, -17) for score in of_problem)
    assert shown.count(f"! problem {bad} is set aside: the verifier failed on it 3 times") == 1
    assert (
        f"base scores: {NUM_PROBLEMS - 1} problems x {BASE_SAMPLES} samples of the base, drawn now: {NUM_PROBLEMS - 1}"
        in shown
    )
    assert [entry["problem_id"] for entry in facts["unjudged_problems"]] == [bad]
    assert json.loads((run_dir / UNJUDGED_FILE).read_text())["problem_id"] == bad
    asked = {row["problem_id"] for rows in trajectories(run_dir).values() for row in rows}
    assert asked == set(scores) and facts["stage"] == "finished"


def test_weights_of_trained_groups_are_those_of_ranks_computed_by_hand(run):
    """`bon` with N = 4 of n = 8 and the baseline loo1, by enumeration of subsets."""
    run_dir, _, _, _ = run
    base, n, k = base_scores(run_dir), SAMPLES, 4

    def best(row: dict[str, Any], ranks: list[float], chosen: Sequence[int]) -> float:
        highest = max(row["scores"][i] for i in chosen)
        return float(np.mean([ranks[i] for i in chosen if row["scores"][i] == highest]))

    rows = [row for rows in trajectories(run_dir).values() for row in rows]
    assert len(rows) == STEPS * GROUPS and set(rows[0]["rewards"]) == {0.0}
    for row in rows:
        ranks = ranks_of(row, base)
        for i in range(n):
            rest = [j for j in range(n) if j != i]
            having = sum(best(row, ranks, (i, *others)) for others in combinations(rest, k - 1))
            without = np.mean([best(row, ranks, others) for others in combinations(rest, k - 1)])
            assert row["weights"][i] == pytest.approx(having / math.comb(n, k) - k / n * without, abs=1e-12)
    assert sum(any(row["weights"]) for row in rows) > len(rows) / 2


def test_the_mean_rank_is_the_win_rate_of_metrics_and_endpoint(run):
    run_dir, _, _, metrics = run
    base = base_scores(run_dir)
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for line, rows in zip(lines, trajectories(run_dir).values(), strict=True):
        assert line["win_rate"] == pytest.approx(np.mean([ranks_of(row, base) for row in rows]))
        assert line["bon_win_rate"] > line["win_rate"] and line["reward"] == 0.0
    assert metrics["bonfire_batch_win_ratio"] in [pytest.approx(line["win_rate"]) for line in lines]
    assert 0.2 < lines[0]["win_rate"] < 0.8


def test_a_run_that_goes_on_draws_nothing_again_and_starts_no_engine(run, ranked, ray_cluster):
    run_dir, _, _, _ = run
    before = (run_dir / BASE_SCORES_FILE).stat().st_mtime_ns
    unjudged, shown = draw(ranked(PICKY), run_dir, checkpoint_at(run_dir, 2))
    assert "9 problems x 6 samples of the base, there already" in shown
    assert [entry["step"] for entry in unjudged] == [0]
    assert (run_dir / BASE_SCORES_FILE).stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_bits(run, ranked, start, tmp_path):
    run_dir, _, _, _ = run
    again = tmp_path / "again"
    shutil.copytree(run_dir, again)
    with start(ranked(PICKY), again, checkpoint=checkpoint_at(again, 2)) as running:
        assert running.finish()["stage"] == "finished"
    assert_same_checkpoint(checkpoint_at(run_dir, STEPS), checkpoint_at(again, STEPS))
    for ours, theirs in zip(trajectories(again).values(), trajectories(run_dir).values(), strict=True):
        assert [row["weights"] for row in ours] == [row["weights"] for row in theirs]


@pytest.mark.slow
def test_what_is_missing_is_drawn_as_it_would_have_been_and_no_more(run, ranked, tmp_path):
    run_dir, _, _, _ = run
    drawn = pq.read_table(run_dir / BASE_SCORES_FILE)
    pq.write_table(drawn.slice(0, 4), tmp_path / BASE_SCORES_FILE)
    _, shown = draw(ranked(), tmp_path)
    assert f"10 problems x {BASE_SAMPLES} samples of the base, drawn now: 10" in shown
    assert "base scores are drawn again: verifier.reward changed since they were" in shown
    assert base_scores(run_dir).items() < base_scores(tmp_path).items()
    pq.write_table(pq.read_table(tmp_path / BASE_SCORES_FILE).slice(0, 4), tmp_path / BASE_SCORES_FILE)
    _, shown = draw(ranked(), tmp_path)
    assert f"10 problems x {BASE_SAMPLES} samples of the base, drawn now: 6" in shown
    assert base_scores(run_dir).items() < base_scores(tmp_path).items()


@pytest.mark.slow
def test_a_verifier_that_fails_on_problem_after_problem_ends_it_with_its_message(ranked, tmp_path):
    with pytest.raises(Halt, match="5 failures in a row .* 'rank_verifiers:broken' on .*no such column"):
        draw(ranked({"verifier": {"reward": "rank_verifiers:broken"}}), tmp_path)

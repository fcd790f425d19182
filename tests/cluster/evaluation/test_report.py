"""The evaluation's numbers, tables and pictures."""

from __future__ import annotations

import io
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

from actors.arrow_forms import scored_to_batch
from actors.types import SampleGroup, ScoredGroup
from cluster.estimates.per_problem import per_problem, win_rate_at_k
from cluster.evaluation import plots, tables
from cluster.evaluation.metrics import CellResults, cell_results
from cluster.evaluation.report import Report, make_report, to_json, write_results
from cluster.evaluation.statistics import BestPair, CoScalingFit, Summary, summarise
from cluster.evaluation.store import Cell
from learner.objectives.statistics import resampled_means


def group_of(
    index: int,
    rewards: Sequence[float],
    *,
    scores: Sequence[float] | None = None,
    answers: Sequence[str | None] | None = None,
    num_tokens: Sequence[int] | None = None,
) -> ScoredGroup:
    n = len(rewards)
    lengths = list(num_tokens or [1] * n)
    samples = SampleGroup(
        group=index,
        problem_id=f"p{index}",
        workers=("rollout-0",) * n,
        seed=0,
        prompt_token_ids=np.array([5], np.int32),
        offsets=np.cumsum([0, *lengths]).astype(np.int32),
        token_ids=np.zeros(sum(lengths), np.int32),
        logprobs=np.zeros(sum(lengths), np.float32),
        versions=np.zeros(sum(lengths), np.int32),
        texts=tuple(f"text {i}" for i in range(n)),
        finish_reasons=("stop",) * (n - 1) + ("length",),
    )
    return ScoredGroup(
        samples=samples,
        scores=np.array(rewards if scores is None else scores, np.float64),
        rewards=np.array(rewards, np.float64),
        statuses=("ok",) * n,
        answers=tuple(answers or [None] * n),
        latencies_s=np.zeros(n, np.float32),
    )


def with_successes(counts: Sequence[int], n: int) -> list[ScoredGroup]:
    return [group_of(i, [1.0] * c + [0.0] * (n - c)) for i, c in enumerate(counts)]


def summary_of(
    cells: dict[str, list[ScoredGroup]], ks: Sequence[int], difficulties: Sequence[str] | None = None
) -> tuple[Summary, list[CellResults]]:
    results = [cell_results(Cell.from_label(label), groups, ks) for label, groups in cells.items()]
    num_problems = len(results[0].problem_ids)
    return summarise(results, difficulties or [""] * num_problems, seed=0), results


def printed(summary: Summary, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    for title, table in tables.sections(summary, 8, width=width):
        console.print(title)
        if table is not None:
            console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# Numbers per problem


def test_every_metric_is_the_mean_over_subsets_of_the_samples():
    groups = [
        group_of(0, [1, 0, 1, 0], scores=[0.1, 0.9, 0.5, 0.5], answers=["a", "b", "a", None]),
        group_of(1, [0, 0, 1, 0], scores=[3, 3, 3, 1], answers=["x", "x", "y", "z"]),
    ]

    def voted(group: ScoredGroup, subset: Sequence[int]) -> float:
        votes = [group.answers[i] for i in subset if group.answers[i] is not None]
        if not votes:
            return 0.0
        winners = [i for i in subset if votes.count(group.answers[i]) == max(map(votes.count, votes))]
        return float(np.mean([group.rewards[i] for i in winners]))

    def picked(group: ScoredGroup, subset: Sequence[int]) -> float:
        best = max(group.scores[i] for i in subset)
        return float(np.mean([group.rewards[i] for i in subset if group.scores[i] == best]))

    def highest(group: ScoredGroup, subset: Sequence[int]) -> float:
        return max(group.rewards[i] for i in subset)

    values = per_problem(groups, [1, 2, 3, 4])
    for metric, of_subset in {"pass_at_k": highest, "best_of_k": picked, "majority_at_k": voted}.items():
        for row, group in enumerate(groups):
            for column, k in enumerate((1, 2, 3, 4)):
                subsets = list(itertools.combinations(range(4), k))
                exact = np.mean([of_subset(group, subset) for subset in subsets])
                assert values[metric][row, column] == pytest.approx(exact, abs=1e-12), (metric, row, k)


def test_an_answer_that_was_judged_both_ways_counts_with_its_mean_reward():
    group = group_of(0, [1, 0, 0, 0, 1], answers=["a", "a", "a", "b", None])
    majority = per_problem([group], [1, 4, 5])["majority_at_k"]
    assert majority == pytest.approx(np.array([[3 / 5 * 1 / 3, 1 / 3, 1 / 3]]), abs=1e-14)


def test_without_any_answer_there_is_no_majority():
    groups = with_successes([1, 2], 4)
    assert set(per_problem(groups, [1, 2])) == {"pass_at_k", "best_of_k"}
    some = [groups[0], replace(groups[1], answers=("a", None, None, None))]
    assert per_problem(some, [1])["majority_at_k"].tolist() == [[0.0], [0.25]]


def test_candidates_that_nobody_judged_are_counted():
    groups = with_successes([1, 0], 4)
    summary, _ = summary_of({"m@1": groups}, [1])
    assert "unjudged" not in summary.overall.cells[0].facts and "not judged" not in printed(summary, 80)
    slow = [groups[0], replace(groups[1], statuses=("ok", "timeout", "refused", "wrong_format"))]
    summary, _ = summary_of({"m@1": groups, "slow@1": slow}, [1])
    assert summary.overall.cells[1].facts["unjudged"].mean == 0.25 and "not judged" in printed(summary, 80)


def on_disk(directory: Path, cells: dict[str, list[ScoredGroup]], ks: Sequence[int]) -> Report:
    """The report of an evaluation with these samples, models in their order."""
    (directory / "samples").mkdir()
    for label, groups in cells.items():
        table = pa.Table.from_batches([scored_to_batch(groups)])
        pq.write_table(table, directory / "samples" / f"{label}.parquet")
    num_problems = len(next(iter(cells.values())))
    models = list(dict.fromkeys(Cell.from_label(label).model for label in cells))
    difficulties = ["easy", "hard"] * (num_problems // 2)
    return make_report(
        directory,
        models=models,
        difficulties=difficulties,
        ks=ks,
        seed=0,
        on_progress=lambda _: None,
    )


def on_scales(mean: float, *, seed: int) -> list[ScoredGroup]:
    """Scores of a reward model, on another scale for each of 6 problems; some tie."""
    rng = np.random.default_rng(seed)
    scores = np.round(rng.normal(mean, 1.0, (6, 8)), 1) * 10.0 ** np.arange(6)[:, None]
    return [group_of(i, [0.0] * 8, scores=row) for i, row in enumerate(scores)]


def test_a_report_at_k_of_all_samples_alone_has_no_win_rate(tmp_path):
    cells = {
        f"{model}@1": on_scales(mean, seed=seed)
        for seed, (model, mean) in enumerate([("base", 0.0), ("b", 0.5)])
    }
    report = on_disk(tmp_path, cells, [8])
    assert "win_rate_at_k" not in report.summary.overall.cells[1].curves
    report.show(Console(file=io.StringIO(), width=120))


def test_a_model_that_is_the_base_wins_as_often_as_selection_alone_does():
    """Sample i of both is the same one, as equal weights with equal seeds draw it; no scores tie."""
    groups = [
        group_of(i, [0.0] * 16, scores=np.random.default_rng(i).permutation(16.0 * i + np.arange(16)))
        for i in range(3)
    ]
    rates_PK = win_rate_at_k(groups, np.stack([group.scores for group in groups]), [1, 4, 15])
    assert rates_PK == pytest.approx(np.array([[1 / 2, 4 / 5, 15 / 16]] * 3))


def test_the_win_rate_is_the_mean_over_subsets_and_over_the_samples_of_the_first_model(tmp_path):
    cells = {
        f"{model}@{temperature}": on_scales(mean, seed=seed)
        for seed, (model, mean, temperature) in enumerate(
            [
                ("base", 0.0, 0.5),
                ("base", 0.3, 1),
                ("trained", 0.5, 0.5),
                ("trained", 0.4, 1),
                ("best", 0.9, 1),
            ]
        )
    }
    report = on_disk(tmp_path, cells, [1, 2, 5, 8])
    found = {result.cell.label: result.values.get("win_rate_at_k") for result in report.results}
    assert found.pop("base@0.5") is None and found.pop("base@1") is None
    for label, value_PK in found.items():
        base = cells[f"base@{label.partition('@')[2]}"]
        for row, (ours, theirs) in enumerate(zip(cells[label], base, strict=True)):
            for column, k in enumerate((1, 2, 5)):
                wins = [
                    (best > score) + (best == score) / 2
                    for subset in itertools.combinations(range(8), k)
                    for best in [max(ours.scores[i] for i in subset)]
                    for j, score in enumerate(theirs.scores)
                    if j not in subset  # the samples of one number are drawn with one seed
                ]
                assert value_PK is not None
                assert value_PK[row, column] == pytest.approx(np.mean(wins), abs=1e-12), (label, row, k)
        assert (
            value_PK is not None and np.isnan(value_PK[:, 3]).all()
        )  # k = n leaves no sample to compare with
    _, _, cold, hot, best = report.summary.overall.cells
    for cell in (cold, hot, best):
        assert [*cell.curves["win_rate_at_k"]] == [1, 2, 5]
        curve = cell.curves["win_rate_at_k"][2]
        assert curve.low < curve.mean < curve.high
        assert curve.mean == pytest.approx(found[cell.cell.label][:, 1].mean())
        assert cell.differences is not None and "win_rate_at_k" not in cell.differences
    by_hand = resampled_means(torch.from_numpy(found["best@1"][:, :3]), seed=0)[:, 0].numpy()
    assert best.curves["win_rate_at_k"][1].low == pytest.approx(np.quantile(by_hand, 0.025))
    assert "win_rate_at_k" not in report.summary.overall.best["trained"]
    report.write({})
    written = json.loads((tmp_path / "report.json").read_text())
    assert [("win_rate_at_k" in cell) for cell in written["cells"]] == [False, False, True, True, True]
    assert written["cells"][4]["win_rate_at_k"]["5"]["mean"] == best.curves["win_rate_at_k"][5].mean
    assert set(written["cells"][4]["by_difficulty"]["hard"]["win_rate_at_k"]["5"]) == {"mean", "low", "high"}
    rows = [row for row in pq.read_table(tmp_path / "results.parquet").to_pylist() if row["model"] == "best"]
    assert [row["win_rate_at_2"] for row in rows] == found["best@1"][:, 1].tolist()
    text = printed(report.summary, 100)
    table = text[text.index("held-out win rate of Best-of-k against one sample of base") :].splitlines()
    assert "trained" in table[2] and "base" not in table[2] and tables.number(curve.mean) in text
    assert max(map(len, printed(report.summary, 80).splitlines())) <= 80


def test_a_model_alone_has_no_win_rate_and_one_that_only_repeats_pass_at_k_is_not_shown(tmp_path):
    cells = {"base@1": with_successes([1, 0, 4, 2], 4), "trained@1": with_successes([2, 0, 4, 1], 4)}
    report = on_disk(tmp_path, cells, [1, 2])
    trained, base_pass = report.summary.overall.cells[1].curves, np.mean([1, 0, 4, 2]) / 4
    for k in (1, 2):
        expected = (1 + trained["pass_at_k"][k].mean - base_pass) / 2
        assert trained["win_rate_at_k"][k].mean == pytest.approx(expected)
    assert report.summary.is_binary and "win rate" not in printed(report.summary, 100)
    alone, results = summary_of({"base@1": on_scales(0.0, seed=0)}, [1, 2])
    assert not alone.is_binary and "win_rate_at_k" not in results[0].values
    assert "win rate" not in printed(alone, 100)


def test_length_and_diversity_are_those_of_the_samples():
    group = group_of(0, [1, 0, 0, 0], answers=["a", "a", "b", None], num_tokens=[1, 2, 3, 6])
    facts = cell_results(Cell(model="m", temperature=1.0), [group], [1]).facts
    assert {name: float(fact[0]) for name, fact in facts.items()} == {
        "tokens": 3.0,
        "finished": 0.75,
        "distinct_texts": 4.0,
        "distinct_answers": 2.0,
    }


# Means and comparisons


def test_the_difference_is_paired_by_problem_and_by_temperature():
    counts = np.random.default_rng(0).integers(0, 5, 60)
    cells = {
        "base@0.5": with_successes(counts, 8),
        "base@1": with_successes(counts[::-1], 8),
        "trained@0.5": with_successes(counts + 1, 8),
        "trained@1": with_successes(counts[::-1] + 2, 8),
        "trained@2": with_successes(counts, 8),
    }
    summary, _ = summary_of(cells, [1, 4])
    base, _, trained, hotter, alone = summary.overall.cells
    assert base.differences is None and alone.differences is None
    for cell, gain in ((trained, 1 / 8), (hotter, 2 / 8)):
        assert cell.differences is not None
        difference = cell.differences["pass_at_k"][1]
        assert [difference.mean, difference.low, difference.high] == pytest.approx([gain] * 3)
    curve = trained.curves["pass_at_k"]
    assert curve[1].mean == pytest.approx((counts.mean() + 1) / 8) and curve[1].high - curve[1].low > 0.05


def test_difficulties_are_summed_up_apart():
    summary, _ = summary_of({"m@1": with_successes([4, 0, 2, 0], 4)}, [1], ["easy", "hard", "easy", "hard"])
    found = {
        one.difficulty: (one.num_problems, one.cells[0].curves["pass_at_k"][1].mean)
        for one in summary.classes
    }
    assert found == {None: (4, 0.375), "easy": (2, 0.75), "hard": (2, 0.0)}
    assert len(summary_of({"m@1": with_successes([4, 0], 4)}, [1])[0].classes) == 1


def test_the_best_temperature_is_found_for_each_k_with_its_certainty():
    cold = with_successes([4] * 10 + [0] * 30, 8)  # sure of a few problems
    hot = with_successes([1] * 40, 8)  # right now and then on all
    best = summary_of({"m@0.5": cold, "m@1": hot}, [1, 8])[0].overall.best["m"]["pass_at_k"]
    assert best[8].temperature == 1.0 and best[8].certainty == 1.0
    assert 0.4 < best[1].certainty < 0.6  # both have a mean of 1/8
    colder = with_successes([5] * 10 + [0] * 30, 8)
    best = summary_of({"m@0.5": colder, "m@1": hot}, [1, 8])[0].overall.best["m"]["pass_at_k"]
    assert (best[1].temperature, best[8].temperature) == (0.5, 1.0)
    assert 0.6 < best[1].certainty < 0.95


def test_temperatures_that_are_equally_good_share_the_resamples():
    cells = {f"m@{t}": scored([2, 5, 0, 1]) for t in (0.25, 0.5, 0.75, 1)}
    overall = summary_of(cells, [1, 4])[0].overall
    for metric in ("pass_at_k", "best_of_k", "majority_at_k"):
        for best in overall.best["m"][metric].values():
            assert (best.temperature, best.certainty) == (0.25, pytest.approx(0.25, abs=1e-12))


def scored(counts: Sequence[int], *, seed: int = 0) -> list[ScoredGroup]:
    """Of 8 samples so many are right; the scores are noise, and wrong answers agree more or less."""
    rng = np.random.default_rng(seed)
    return [
        group_of(
            i,
            [1.0] * right + [0.0] * (8 - right),
            scores=rng.integers(0, 4, 8).tolist(),
            answers=["right"] * right + [f"wrong {j}" for j in rng.integers(0, 3, 8 - right)],
        )
        for i, right in enumerate(counts)
    ]


def slow_best_pair(results: Sequence[CellResults], rows: Sequence[int], metric: str) -> BestPair:
    """Every resample of the problems by itself, every pair of it by itself."""
    pairs = [(k, i) for k in results[0].ks for i in range(len(results))]
    values = {(k, i): results[i].values[metric][list(rows), results[i].ks.index(k)] for k, i in pairs}

    def winners(means: dict[tuple[int, int], float]) -> list[tuple[int, int]]:
        return [pair for pair in pairs if means[pair] > max(means.values()) - 1e-12]

    best = winners({pair: float(value.mean()) for pair, value in values.items()})[0]
    resampled = {
        pair: resampled_means(torch.from_numpy(value[:, None]), seed=0)[:, 0].tolist()
        for pair, value in values.items()
    }
    share = 0.0
    for means in zip(*resampled.values(), strict=True):
        tied = winners(dict(zip(pairs, means, strict=True)))
        share += (best in tied) / len(tied)
    certainty = share / len(resampled[best])
    return BestPair(k=best[0], temperature=results[best[1]].cell.temperature, certainty=certainty)


@pytest.mark.parametrize("temperatures", [(0.5, 1.0), (1.0,)])
def test_the_best_pair_of_k_and_temperature_is_that_of_a_slow_transcription(temperatures):
    difficulties = ["easy", "hard"] * 6
    counts = np.random.default_rng(1).integers(0, 6, (2, 2, 12))
    counts[:, :, ::2] += 2
    cells = {
        f"{model}@{temperature}": scored(counts[i, j], seed=2 * i + j)
        for i, model in enumerate(("base", "trained"))
        for j, temperature in enumerate(temperatures)
    }
    summary, results = summary_of(cells, [1, 3, 8], difficulties)
    assert [one.difficulty for one in summary.classes] == [None, "easy", "hard"]
    text, found = printed(summary, 80), set()
    for one in summary.classes:
        rows = [i for i, level in enumerate(difficulties) if one.difficulty in (None, level)]
        for model, best in one.best_pairs.items():
            assert set(best) == {"best_of_k", "majority_at_k"}
            for metric, pair in best.items():
                own = [result for result in results if result.cell.model == model]
                slow = slow_best_pair(own, rows, metric)
                assert (pair.k, pair.temperature) == (slow.k, slow.temperature)
                assert pair.certainty == pytest.approx(slow.certainty, abs=1e-9)
                found.add((pair.k, pair.temperature))
                assert f"{pair.k} at T {pair.temperature:g} ({100 * pair.certainty:.0f} %)" in text
    assert len(found) > len(temperatures)


def test_pairs_that_are_equally_good_share_the_resamples_and_the_smallest_k_is_named():
    groups = [group_of(0, [1, 1, 1, 1], scores=[1, 2, 3, 4], answers=["a", "a", "b", "b"])]
    best = summary_of({"m@1": groups, "m@0.5": groups}, [2, 4])[0].overall.best_pairs["m"]
    assert best == dict.fromkeys(
        ("best_of_k", "majority_at_k"), BestPair(k=2, temperature=1.0, certainty=0.25)
    )


def test_one_choice_is_not_compared_with_itself():
    overall = summary_of({"m@1": with_successes([1, 2], 4)}, [1])[0].overall
    assert overall.best == {} and overall.best_pairs == {}


def test_the_law_of_co_scaling_is_fitted_or_the_reason_given():
    counts = np.random.default_rng(1).binomial(64, np.random.default_rng(2).beta(0.5, 2.0, 300))
    summary, _ = summary_of(
        {"m@1": with_successes(counts, 64), "solved@1": with_successes([64] * 300, 64)}, [1]
    )
    law, reason = summary.co_scaling.values()
    assert isinstance(law, CoScalingFit)
    assert law.a.low < law.a.mean < law.a.high < 0 and law.b.low < law.b.mean < law.b.high < 0
    assert law.ks[0] == 1 and law.ks[-1] == 64 and law.largest_error < 0.02
    assert isinstance(reason, str) and "strictly between 0 and 1" in reason


# On the screen


def test_two_models_fit_80_columns_beside_each_other_with_every_number_whole():
    cells = {"base@1": with_successes([1, 0, 4], 4), "trained@1": with_successes([2, 0, 4], 4)}
    summary, _ = summary_of(cells, [1, 2, 4])
    text = printed(summary, 80)
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    line = next(line for line in text.splitlines() if line.split()[:1] == ["1"])
    for cell in summary.overall.cells:
        assert tables.number(cell.curves["pass_at_k"][1].mean) in line
    assert "+.083 [+.000, +.250]" in line


def test_many_models_are_listed_below_each_other():
    cells = {f"model-{i}@{t}": with_successes([i, 2, 4], 8) for i in range(3) for t in (0.5, 1)}
    summary, _ = summary_of(cells, [1, 2, 4, 8], ["a", "b", "b"])
    text = printed(summary, 80)
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    assert sum("model-2" in line and "[" in line for line in text.splitlines()) >= 8
    assert "difference from first" in text


def test_long_names_and_large_rewards_cut_no_number():
    def groups(rewards: Sequence[float]) -> list[ScoredGroup]:
        return [group_of(i, np.roll(rewards, i), answers=["a", "b", "b", "c"]) for i in range(4)]

    names = ("Qwen2.5-0.5B-Instruct", "trained-on-a-problem-set-with-a-long-name-step-000100")
    cells = {f"{name}@{t}": groups([-750.0, 0, 0.5, 1]) for name in names for t in (0.5, 1)}
    levels = [f"Level {i} of a long scale" for i in (1, 1, 2, 2)]
    for difficulties in (levels, ["easy", "easy", "hard", "hard"]):
        text = printed(summary_of(cells, [1, 4], difficulties)[0], 80)
        assert "…" not in text and max(map(len, text.splitlines())) <= 80
        assert (
            sum("-187.12 [-187.12, -187.12]   +.000 [+.000, +.000]" in line for line in text.splitlines())
            >= 2
        )


def test_a_best_of_k_that_is_pass_at_k_is_shown_once_and_said():
    text = printed(summary_of({"m@1": with_successes([1, 2], 4)}, [1, 2])[0], 80)
    assert "held-out pass@k = Best-of-k with" in text and "held-out Best-of-k" not in text
    assert "majority@k is not available" in text
    groups = [group_of(0, [1, 0, 0], scores=[0, 1, 2], answers=["a", "b", "b"])]
    text = printed(summary_of({"m@1": groups}, [1, 2])[0], 80)
    for title in ("held-out pass@k with", "held-out Best-of-k with", "held-out majority@k with"):
        assert title in text


# On disk


@pytest.fixture
def report(tmp_path) -> Report:
    rng = np.random.default_rng(3)

    def groups() -> list[ScoredGroup]:
        rewards = rng.integers(0, 2, (6, 8))
        return [
            group_of(
                i,
                row,
                scores=rng.random(8),
                answers=["right" if r else f"{j % 3}" for j, r in enumerate(row)],
            )
            for i, row in enumerate(rewards)
        ]

    cells = {f"{model}@{t}": groups() for model in ("base", "trained") for t in (0.5, 1)}
    difficulties = ["easy", "hard"] * 3
    summary, results = summary_of(cells, [1, 2, 8], difficulties)
    return Report(
        summary=summary,
        results=tuple(results),
        difficulties=tuple(difficulties),
        unfinished=("trained@2",),
        directory=tmp_path,
    )


def test_report_json_holds_the_numbers(report):
    written = json.loads(to_json(report.summary, {"problems": 6}))
    assert written["problems"] == 6 and written["ks"] == [1, 2, 8]
    labels = [(cell["model"], cell["temperature"]) for cell in written["cells"]]
    assert labels == [("base", 0.5), ("base", 1.0), ("trained", 0.5), ("trained", 1.0)]
    for cell, summary in zip(written["cells"], report.summary.overall.cells, strict=True):
        for metric, curve in summary.curves.items():
            assert cell[metric]["8"] == {"mean": curve[8].mean, "low": curve[8].low, "high": curve[8].high}
        assert set(cell["by_difficulty"]) == {"easy", "hard"}
    assert written["cells"][0]["difference"] is None
    difference = report.summary.overall.cells[3].differences
    assert difference is not None
    assert (
        written["cells"][3]["difference"]["majority_at_k"]["2"]["mean"] == difference["majority_at_k"][2].mean
    )
    assert set(written["best_temperature"]) == {"", "easy", "hard"}
    assert 0 < written["best_temperature"][""]["base"]["best_of_k"]["8"]["certainty"] <= 1
    for one in report.summary.classes:
        pair = one.best_pairs["trained"]["majority_at_k"]
        assert written["best_pair"][one.difficulty or ""]["trained"]["majority_at_k"] == asdict(pair)


def test_results_hold_a_row_per_problem_and_cell(report, tmp_path):
    write_results(report.results, report.difficulties, tmp_path / "results.parquet")
    rows = pq.read_table(tmp_path / "results.parquet").to_pylist()
    assert len(rows) == 4 * 6
    for row in rows:
        result = next(
            r for r in report.results if r.cell == Cell(model=row["model"], temperature=row["temperature"])
        )
        index = int(row["problem_id"].removeprefix("p"))
        assert (
            row["pass_at_1"]
            == row["num_correct"] / row["num_samples"]
            == result.values["pass_at_k"][index, 0]
        )
        assert row["best_of_8"] == result.values["best_of_k"][index, 2]
        assert row["majority_at_2"] == result.values["majority_at_k"][index, 1]
        assert row["difficulty"] == report.difficulties[index]


def test_every_picture_is_written_as_png_and_svg(report, tmp_path):
    report.write({})
    for name in ("pass_at_k", "selection", "temperature"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (tmp_path / f"{name}.svg").read_text()


@pytest.mark.parametrize("rewards", [(-3.0, -2.0), (0.0, 1.0), (20.0, 30.0)])
def test_no_curve_lies_outside_its_picture(rewards):
    groups = [group_of(i, np.roll([*rewards, *rewards], i), answers=["a", "a", "b", "c"]) for i in range(4)]
    summary, _ = summary_of({"m@1": groups}, [1, 4])
    for figure in (
        plots.pass_figure(summary),
        plots.selection_figure(summary),
        plots.run_figure(summary, [], temperature=1.0),
    ):
        low, high = figure.axes[-1].get_ylim()
        assert low <= np.mean(rewards) < rewards[1] <= high
        assert low == 0 or rewards[0] < 0


def test_samples_of_a_model_that_is_not_in_the_settings_are_named(tmp_path):
    (tmp_path / "samples").mkdir()
    for label, text in (
        ("other@1", "other@1.parquet is of no model in settings.json"),
        ("notes", "'notes' is not NAME@TEMPERATURE"),
    ):
        path = tmp_path / "samples" / f"{label}.parquet"
        path.touch()
        with pytest.raises(ValueError, match=text):
            make_report(tmp_path, models=["m"], difficulties=[""], ks=[1], seed=0, on_progress=print)
        path.unlink()


def test_a_run_gets_its_report_beside_its_training_curves(report, tmp_path):
    (tmp_path / "report.json").write_text(to_json(report.summary, {}))
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    steps = [{"step": step, "pass_at_n": 0.5, "reward": 0.1 * step} for step in range(1, 4)]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    report.write_run(run_dir, temperature=1.0)
    assert json.loads((run_dir / "report.json").read_text())["cells"]
    assert (run_dir / "report.png").read_bytes().startswith(b"\x89PNG")


def test_a_law_without_an_interval_is_null_in_json():
    counts = [0] * 29 + [3]
    summary, _ = summary_of({"m@1": with_successes(counts, 32)}, [1])
    law = next(iter(summary.co_scaling.values()))
    assert isinstance(law, CoScalingFit) and math.isnan(
        law.a.low
    )  # many resamples miss the one solved problem
    written = json.loads(to_json(summary, {}))["cells"][0]["co_scaling"]
    assert written["a"]["low"] is None and written["a"]["mean"] == law.a.mean
    shown = tables.estimate_text(law.a)
    assert shown == f"{tables.number(law.a.mean)} (no interval)"
    table = tables.law_table(summary)
    assert Console().measure(table).maximum <= 80, "it is cut on a terminal of 80 columns"

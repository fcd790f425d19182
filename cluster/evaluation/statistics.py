"""From numbers per problem to those of a report: means, intervals, paired differences, the best k and temperature.

Shapes: `P` problems, `K` values of k, `S` bootstrap resamples, `T` temperatures,
`C` choices of which one is the best.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cluster.estimates.intervals import Estimate, Resampled, resample
from cluster.estimates.per_problem import METRICS
from cluster.evaluation.metrics import CellResults
from cluster.evaluation.store import Cell
from learner.objectives.estimators import bootstrap_interval, fit_co_scaling

METRICS_THAT_MAY_FALL = tuple(name for name in METRICS if name != "pass_at_k")
"""With k; the best k of pass@k is the largest."""
TIE = 1e-12
"""Means this close are equal: rounding alone tells them apart."""
NUM_FIT_RESAMPLES = 2000
"""A refit of the law costs a thousand times a mean."""


Curve = dict[int, Estimate]
"""By k."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoScalingFit:
    """`pass@k = exp(a k^b)` fitted to the mean over problems at `ks`."""

    a: Estimate
    b: Estimate
    ks: tuple[int, ...]
    largest_error: float
    """Of the law, in pass@k, over `ks`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellSummary:
    """Means of one cell over the problems of one class."""

    cell: Cell
    curves: dict[str, Curve]
    differences: dict[str, Curve] | None
    """From the first model at the same temperature, paired by problem; None where there is no such pair."""
    facts: dict[str, Estimate]


@dataclass(frozen=True, slots=True, kw_only=True)
class BestTemperature:
    """The temperature with the highest mean at one k; `certainty`: share of resamples in which it wins."""

    temperature: float
    certainty: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BestPair:
    """The k and temperature with the highest mean of all; `certainty`: share of resamples in which they win."""

    k: int
    temperature: float
    certainty: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassSummary:
    """All cells over the problems of one difficulty; None: over all problems."""

    difficulty: str | None
    num_problems: int
    cells: tuple[CellSummary, ...]
    best: dict[str, dict[str, dict[int, BestTemperature]]]
    """Model to metric to k; empty with a single temperature."""
    best_pairs: dict[str, dict[str, BestPair]]
    """Model to each metric that may fall with k; empty with a single k and temperature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """An evaluation in numbers: over all problems first, then by difficulty if there are several."""

    ks: tuple[int, ...]
    classes: tuple[ClassSummary, ...]
    co_scaling: dict[Cell, CoScalingFit | str]
    """A text says why the law could not be fitted."""
    selection_is_perfect: bool
    """Best-of-k is pass@k in every cell, at every k of the report."""
    is_binary: bool
    """And all scores are 0 or 1: then the win rate is (1 + pass@k - pass@1 of the base) / 2."""

    @property
    def overall(self) -> ClassSummary:
        return self.classes[0]


def summarise(results: Sequence[CellResults], difficulties: Sequence[str], *, seed: int) -> Summary:
    """Means, intervals, differences and best temperatures of cells over the same problems.

    `difficulties` has one entry per problem. The first model is the reference of the differences. One
    seed draws the same problems for all cells, so that every comparison is paired.
    """
    levels = sorted(set(difficulties))
    level_P = np.array(difficulties)
    rows: dict[str | None, np.ndarray] = {None: np.arange(len(level_P))}
    if len(levels) > 1:
        rows |= {level: np.flatnonzero(level_P == level) for level in levels}
    selection_is_perfect = all(
        np.allclose(result.values["pass_at_k"], result.values["best_of_k"], rtol=0, atol=1e-12)
        for result in results
    )
    return Summary(
        ks=results[0].ks,
        classes=tuple(_summarise_class(results, level, rows[level], seed) for level in rows),
        co_scaling={result.cell: fit_law(result, seed=seed) for result in results},
        selection_is_perfect=selection_is_perfect,
        is_binary=selection_is_perfect and all(np.isin(one.scores_PN, (0, 1)).all() for one in results),
    )


def fit_law(result: CellResults, *, seed: int) -> CoScalingFit | str:
    """The law of co-scaling of one cell, or why there is none."""
    curve_K = torch.from_numpy(result.fit_pass_PK.mean(axis=0))
    try:
        law = fit_co_scaling(result.fit_ks, curve_K)
    except ValueError:
        return "fewer than 3 values of pass@k strictly between 0 and 1"
    try:
        low, high = bootstrap_interval(
            torch.from_numpy(result.fit_pass_PK),
            statistic=lambda means_SK: torch.stack(fit_co_scaling(result.fit_ks, means_SK), dim=1),
            num_resamples=NUM_FIT_RESAMPLES,
            seed=seed,
        )
    except ValueError:  # a resample with too few solved problems
        low = high = torch.full((2,), torch.nan)
    fitted_K = (law.a * torch.tensor(result.fit_ks, dtype=torch.float64) ** law.b).exp()
    a, b = (
        Estimate(mean=float(value), low=float(low[i]), high=float(high[i])) for i, value in enumerate(law)
    )
    return CoScalingFit(a=a, b=b, ks=result.fit_ks, largest_error=float((fitted_K - curve_K).abs().max()))


def _summarise_class(
    results: Sequence[CellResults], difficulty: str | None, rows: np.ndarray, seed: int
) -> ClassSummary:
    resampled = {result.cell: _resample(result, rows, seed) for result in results}
    summaries = []
    for result in results:
        own = resampled[result.cell]
        reference = Cell(model=results[0].cell.model, temperature=result.cell.temperature)
        other = resampled.get(reference) if reference != result.cell else None
        shared = [name for name in result.values if other is not None and name in other]
        summaries.append(
            CellSummary(
                cell=result.cell,
                curves={name: curve for name in result.values if (curve := _curve(result.ks, own[name]))},
                differences=None
                if other is None
                else {name: _curve(result.ks, own[name].minus(other[name])) for name in shared},
                facts={name: own[name].estimates()[0] for name in result.facts},
            )
        )
    return ClassSummary(
        difficulty=difficulty,
        num_problems=len(rows),
        cells=tuple(summaries),
        best=_best_temperatures(results[0].ks, resampled),
        best_pairs=_best_pairs(results[0].ks, resampled),
    )


def _resample(result: CellResults, rows: np.ndarray, seed: int) -> dict[str, Resampled]:
    """Every metric [K] and every fact [1] of a cell, over the same resamples of the problems."""
    matrices = {**result.values, **{name: fact_P[:, None] for name, fact_P in result.facts.items()}}
    return resample({name: matrix[rows] for name, matrix in matrices.items()}, seed=seed)


def _curve(ks: Sequence[int], resampled: Resampled) -> Curve:
    """Without the ks at which there is no estimate."""
    estimates = zip(ks, resampled.estimates(), strict=True)
    return {k: estimate for k, estimate in estimates if not math.isnan(estimate.mean)}


def _best_temperatures(
    ks: Sequence[int], resampled: dict[Cell, dict[str, Resampled]]
) -> dict[str, dict[str, dict[int, BestTemperature]]]:
    best: dict[str, dict[str, dict[int, BestTemperature]]] = {}
    for model, cells in _cells_by_model(resampled).items():
        if len(cells) == 1:
            continue
        best[model] = {}
        for name in _shared_metrics(cells, METRICS, resampled):
            mean_TK, mean_TSK = _stack([resampled[cell][name] for cell in cells])
            winners = [_winner(mean_TK[:, i], mean_TSK[:, :, i]) for i in range(len(ks))]
            best[model][name] = {
                k: BestTemperature(temperature=cells[index].temperature, certainty=certainty)
                for k, (index, certainty) in zip(ks, winners, strict=True)
            }
    return best


def _best_pairs(
    ks: Sequence[int], resampled: dict[Cell, dict[str, Resampled]]
) -> dict[str, dict[str, BestPair]]:
    best: dict[str, dict[str, BestPair]] = {}
    for model, cells in _cells_by_model(resampled).items():
        choices = [(k, cell.temperature) for k in ks for cell in cells]
        if len(choices) == 1:
            continue
        best[model] = {}
        for name in _shared_metrics(cells, METRICS_THAT_MAY_FALL, resampled):
            mean_TK, mean_TSK = _stack([resampled[cell][name] for cell in cells])
            mean_CS = mean_TSK.transpose(2, 0, 1).reshape(len(choices), -1)
            index, certainty = _winner(mean_TK.T.ravel(), mean_CS)
            k, temperature = choices[index]
            best[model][name] = BestPair(k=k, temperature=temperature, certainty=certainty)
    return best


def _cells_by_model(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    by_model: dict[str, list[Cell]] = {}
    for cell in cells:
        by_model.setdefault(cell.model, []).append(cell)
    return by_model


def _shared_metrics(
    cells: Sequence[Cell], metrics: Iterable[str], resampled: dict[Cell, dict[str, Resampled]]
) -> list[str]:
    return [name for name in metrics if all(name in resampled[cell] for cell in cells)]


def _stack(resampled: Sequence[Resampled]) -> tuple[np.ndarray, np.ndarray]:
    """[T, K] and [T, S, K]."""
    return np.stack([one.mean_K for one in resampled]), np.stack([one.mean_SK for one in resampled])


def _winner(mean_C: np.ndarray, mean_CS: np.ndarray) -> tuple[int, float]:
    """The first of the best choices, and its share of the resamples; those in which choices tie are divided."""
    index = int(np.argmax(mean_C >= mean_C.max() - TIE))
    wins_CS = mean_CS >= mean_CS.max(axis=0) - TIE
    return index, float((wins_CS[index] / wins_CS.sum(axis=0)).mean())

"""Pictures of a report, each as PNG and SVG: curves against k, the map of k and temperature, a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from cluster.evaluation.statistics import (
    METRICS_THAT_MAY_FALL,
    CellSummary,
    CoScalingFit,
    Curve,
    Summary,
)
from cluster.evaluation.tables import shown_metrics, title_of

COLORS = ("#6e6e6e", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's, which stay apart for the colour-blind; grey for the reference."""
STYLES: dict[str, tuple[Any, str]] = {
    "best_of_k": ("-", "o"),
    "majority_at_k": ("--", "s"),
    "pass_at_k": (":", ""),
}
STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "bonfire",
}
PANEL_INCHES = (4.3, 3.6)
DOTS_PER_INCH = 160
INCHES_PER_LETTER = 0.1
CERTAIN = 0.95


def plot_all(summary: Summary, directory: Path) -> None:
    """pass_at_k, selection and temperature, the latter two if there is something to show."""
    with mpl.rc_context(STYLE):
        _save(pass_figure(summary), directory / "pass_at_k")
        if set(METRICS_THAT_MAY_FALL) & set(shown_metrics(summary)):
            _save(selection_figure(summary), directory / "selection")
        if summary.overall.best:
            _save(_temperature_figure(summary), directory / "temperature")


def plot_run(summary: Summary, steps: Sequence[Mapping[str, Any]], path: Path, *, temperature: float) -> None:
    """Left: reward and pass@N of the training batches. Right: held-out pass@k at the training temperature."""
    with mpl.rc_context(STYLE):
        figure = run_figure(summary, steps, temperature=temperature)
        figure.savefig(path, dpi=DOTS_PER_INCH)


def run_figure(summary: Summary, steps: Sequence[Mapping[str, Any]], *, temperature: float) -> Figure:
    figure = Figure(figsize=(2.4 * PANEL_INCHES[0], 1.1 * PANEL_INCHES[1]))
    training, held_out = figure.subplots(1, 2)
    numbers = {step.get("num_select", "N") for step in steps}  # runs from before it was told have none
    k = numbers.pop() if len(numbers) == 1 else "N"  # a schedule has several
    series = (("pass_at_n", f"pass@{k}", COLORS[1]), ("reward", "reward (pass@1)", COLORS[0]))
    for fact, label, color in series if steps else ():
        step_S, value_S = (np.array([step[name] for step in steps]) for name in ("step", fact))
        training.plot(step_S, value_S, color=color, alpha=0.25, linewidth=1)
        training.plot(step_S, _smooth(value_S), color=color, label=label, linewidth=2)
        training.legend()
    training.xaxis.get_major_locator().set_params(integer=True)
    training.set(title="training batches", xlabel="step")
    there = sorted({cell.cell.temperature for cell in summary.overall.cells})
    nearest = min(there, key=lambda other: abs(other - temperature))
    _pass_panel(held_out, summary, nearest)
    held_out.set(title="held-out pass@k, 95 % intervals", xlabel="k samples")
    for axes in (training, held_out):
        _show_from_zero(axes, 1.0)
    held_out.legend(loc="upper left")
    return figure


def pass_figure(summary: Summary) -> Figure:
    figure, panels = _panels(summary)
    for temperature, axes in panels.items():
        _pass_panel(axes, summary, temperature)
        for cell in _cells_at(summary, temperature):
            law = summary.co_scaling[cell.cell]
            if isinstance(law, CoScalingFit):
                k = np.geomspace(summary.ks[0], summary.ks[-1], 200)
                color = _color(summary, cell)
                axes.plot(
                    k, np.exp(law.a.mean * k**law.b.mean), color=color, linewidth=0.8, linestyle=(0, (5, 3))
                )
        axes.set_xlabel("k samples")
    first = next(iter(panels.values()))
    first.set_ylabel(f"held-out {title_of(summary, 'pass_at_k')}")
    _show_from_zero(first)
    handles, _ = first.get_legend_handles_labels()
    if any(isinstance(law, CoScalingFit) for law in summary.co_scaling.values()):
        handles.append(
            Line2D([], [], color="#333333", linewidth=0.8, linestyle=(0, (5, 3)), label="exp(a k^b)")
        )
    first.legend(handles=handles, loc="upper left")
    return figure


def selection_figure(summary: Summary) -> Figure:
    """What a verifier and a vote pick from k samples, below what the k samples hold."""
    figure, panels = _panels(summary)
    metrics = [metric for metric in STYLES if metric in shown_metrics(summary)]
    for temperature, axes in panels.items():
        for cell in _cells_at(summary, temperature):
            for metric in metrics:
                if metric in cell.curves:
                    line, marker = STYLES[metric]
                    _curve(axes, cell.curves[metric], _color(summary, cell), line, marker)
        _k_axis(axes, summary)
        axes.set_xlabel("k samples")
    first = next(iter(panels.values()))
    first.set_ylabel("held-out reward of the answer picked")
    _show_from_zero(first)
    models = _models(summary)
    handles = [Line2D([], [], color=_color_of(models, model), linewidth=2, label=model) for model in models]
    for metric in metrics:
        line, marker = STYLES[metric]
        handles.append(
            Line2D(
                [],
                [],
                color="#333333",
                linestyle=line,
                marker=marker,
                markersize=4,
                label=title_of(summary, metric),
            )
        )
    first.legend(handles=handles, loc="upper left")
    return figure


def _temperature_figure(summary: Summary) -> Figure:
    """A map per metric and model: means as text, how far behind the best temperature at that k as colour.

    The best is framed, firmly if it wins in CERTAIN of the resamples.
    """
    models = list(summary.overall.best)
    metrics = [
        metric for metric in shown_metrics(summary) if any(metric in summary.overall.best[m] for m in models)
    ]
    temperatures = sorted({cell.cell.temperature for cell in summary.overall.cells})
    panel_width = max(0.72 * len(summary.ks), INCHES_PER_LETTER * max(map(len, models)))
    size = (1.5 + panel_width * len(models), 1.1 + (0.85 + 0.45 * len(temperatures)) * len(metrics))
    figure = Figure(figsize=(max(size[0], 4.0), size[1]))
    grid = figure.subplots(len(metrics), len(models), squeeze=False)
    for row, metric in zip(grid, metrics, strict=True):
        maps = [_map(summary, model, metric, temperatures) for model in models]
        behind = [map_TK - np.nanmax(map_TK, axis=0) for map_TK in maps]
        furthest = min(-1e-3, np.nanmin(behind))  # a scale where all are equally good
        for axes, model, map_TK, behind_TK in zip(row, models, maps, behind, strict=True):
            image = axes.imshow(
                behind_TK, cmap="cividis", vmin=furthest, vmax=0, aspect="auto", origin="lower"
            )
            _write_map(axes, map_TK, behind_TK, furthest / 2)
            _frame_best(axes, summary, model, metric, temperatures)
            axes.set_xticks(range(len(summary.ks)), [str(k) for k in summary.ks])
            axes.set_yticks(range(len(temperatures)), [f"{temperature:g}" for temperature in temperatures])
            axes.set_title(f"{model}\n{title_of(summary, metric)}")
            axes.grid(visible=False)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        row[0].set_ylabel("temperature")
        bar = figure.colorbar(image, ax=list(row), pad=0.01, aspect=12, label="behind the best")
        bar.outline.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("k samples")
    return figure


def _map(summary: Summary, model: str, metric: str, temperatures: Sequence[float]) -> np.ndarray:
    """[T, K] means; NaN where there is no such cell."""
    map_TK = np.full((len(temperatures), len(summary.ks)), np.nan)
    for cell in summary.overall.cells:
        if cell.cell.model == model and metric in cell.curves:
            curve = cell.curves[metric]
            map_TK[temperatures.index(cell.cell.temperature)] = [curve[k].mean for k in summary.ks]
    return map_TK


def _write_map(axes: Axes, map_TK: np.ndarray, behind_TK: np.ndarray, dark_below: float) -> None:
    for (row, column), value in np.ndenumerate(map_TK):
        if not np.isnan(value):
            color = "white" if behind_TK[row, column] < dark_below else "#111111"
            text = f"{value:.3f}".removeprefix("0")
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=9)


def _frame_best(axes: Axes, summary: Summary, model: str, metric: str, temperatures: Sequence[float]) -> None:
    for column, k in enumerate(summary.ks):
        best = summary.overall.best[model][metric][k]
        corner = (column - 0.46, temperatures.index(best.temperature) - 0.46)
        line = "-" if best.certainty >= CERTAIN else (0, (2, 1.5))
        axes.add_patch(
            Rectangle(corner, 0.92, 0.92, fill=False, edgecolor="#d55e00", linewidth=1.8, linestyle=line)
        )


def _panels(summary: Summary) -> tuple[Figure, dict[float, Axes]]:
    """A panel per temperature, all on one scale."""
    temperatures = sorted({cell.cell.temperature for cell in summary.overall.cells})
    width = PANEL_INCHES[0] * len(temperatures) + 0.4
    figure = Figure(figsize=(width, PANEL_INCHES[1]))
    row = figure.subplots(1, len(temperatures), sharey=True, squeeze=False)[0]
    for temperature, axes in zip(temperatures, row, strict=True):
        axes.set_title(f"temperature {temperature:g}")
    return figure, dict(zip(temperatures, row, strict=True))


def _pass_panel(axes: Axes, summary: Summary, temperature: float) -> None:
    for cell in _cells_at(summary, temperature):
        _curve(axes, cell.curves["pass_at_k"], _color(summary, cell), "-", "o", cell.cell.model)
    _k_axis(axes, summary)


def _curve(axes: Axes, curve: Curve, color: str, line: Any, marker: str, label: str | None = None) -> None:
    ks = list(curve)
    axes.plot(
        ks, [one.mean for one in curve.values()],
        color=color, linestyle=line, marker=marker, markersize=4.5, linewidth=1.8, label=label,
    )  # fmt: skip
    if marker:
        low, high = [one.low for one in curve.values()], [one.high for one in curve.values()]
        axes.fill_between(ks, low, high, color=color, alpha=0.12, linewidth=0)


def _show_from_zero(axes: Axes, to: float | None = None) -> None:
    """The reward axis begins at 0, and ends at `to`, unless rewards lie beyond."""
    low, high = axes.dataLim.intervaly
    if low >= 0:
        axes.set_ylim(bottom=0, top=to if to is not None and high <= to else None)


def _k_axis(axes: Axes, summary: Summary) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(summary.ks, [str(k) for k in summary.ks])
    axes.minorticks_off()


def _cells_at(summary: Summary, temperature: float) -> list[CellSummary]:
    return [cell for cell in summary.overall.cells if cell.cell.temperature == temperature]


def _models(summary: Summary) -> list[str]:
    return list(dict.fromkeys(cell.cell.model for cell in summary.overall.cells))


def _color(summary: Summary, cell: CellSummary) -> str:
    return _color_of(_models(summary), cell.cell.model)


def _color_of(models: Sequence[str], model: str) -> str:
    return COLORS[models.index(model) % len(COLORS)]


def _save(figure: Figure, stem: Path) -> None:
    figure.savefig(stem.with_suffix(".png"), dpi=DOTS_PER_INCH)
    figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})


def _smooth(values: np.ndarray, window: int = 10) -> np.ndarray:
    """Trailing mean over up to `window` values."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)

"""The one live view of a run: stages, where each is, how long it will still take.

On a terminal it is redrawn in place; elsewhere (a log, CI) a line appears when a stage starts, ends,
or has news after a while.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

LINE_EVERY_S = 10.0
MARKS = {
    "waiting": ("·", "dim"),
    "running": ("▶", "bold cyan"),
    "done": ("✓", "green"),
    "failed": ("✗", "red"),
}


@dataclass(slots=True)
class Stage:
    """One line of the view."""

    name: str
    state: str = "waiting"
    share: float | None = None
    text: str = ""
    details: tuple[str, ...] = ()
    started_s: float = 0.0
    ended_s: float = 0.0
    printed_s: float = 0.0


class View:
    """Use as a context manager; calls name a stage given to the constructor."""

    def __init__(self, title: str, stages: Sequence[str], console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._title = title
        self._stages = {name: Stage(name) for name in stages}
        self._started_s = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live = Live(
                self, console=self.console, refresh_per_second=4, redirect_stdout=False, redirect_stderr=False
            )
            self._live.start()
        else:
            self.console.print(self._title)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stage in self._stages.values():
            if error is not None and stage.state == "running":
                stage.state, stage.ended_s = "failed", time.monotonic()
        if self._live:
            self._live.stop()

    def start(self, name: str, text: str = "") -> None:
        stage = self._stages[name]
        stage.state, stage.text = "running", text
        stage.started_s = stage.printed_s = time.monotonic()
        self._line(stage)

    def turn_to(self, name: str, text: str) -> None:
        """What the stage does next and will say nothing of for a while: in a log a line at once."""
        stage = self._stages[name]
        stage.share, stage.text, stage.details, stage.printed_s = None, text, (), time.monotonic()
        self._line(stage)

    def update(self, name: str, share: float | None, text: str, details: Sequence[str] = ()) -> None:
        """`share` of the stage done in 0..1; `text` beside its bar, `details` below it."""
        stage = self._stages[name]
        stage.share, stage.text, stage.details = share, text, tuple(details)
        if time.monotonic() - stage.printed_s > LINE_EVERY_S:
            stage.printed_s = time.monotonic()
            self._line(stage)

    def note(self, text: str) -> None:
        """A line that stays, on a terminal above what is redrawn."""
        clock = duration(time.monotonic() - self._started_s)
        self.console.print(f"[{clock}] ! {escape(text)}", soft_wrap=True)

    def tell(self, text: str) -> None:
        """Like `note`, of something that is as it should be."""
        clock = duration(time.monotonic() - self._started_s)
        self.console.print(f"[{clock}] · {escape(text)}", soft_wrap=True)

    def finish(self, name: str, text: str) -> None:
        stage = self._stages[name]
        stage.state, stage.share, stage.text, stage.details = "done", None, text, ()
        stage.ended_s = time.monotonic()
        stage.started_s = stage.started_s or stage.ended_s
        self._line(stage)

    def _line(self, stage: Stage) -> None:
        if not self._live:
            parts = (stage.text, *stage.details) if stage.state == "running" else (stage.text,)
            clock = duration(time.monotonic() - self._started_s)
            self.console.print(
                f"[{clock}] {MARKS[stage.state][0]} {stage.name}: " + escape(" | ".join(parts)),
                soft_wrap=True,
            )

    def __rich__(self) -> Group:
        now = time.monotonic()
        table = Table.grid(padding=(0, 2))
        for stage in self._stages.values():
            mark, style = MARKS[stage.state]
            took = duration((stage.ended_s or now) - stage.started_s) if stage.started_s else ""
            bar: Any = ""
            if stage.state == "running" and stage.share is not None:
                bar = ProgressBar(total=1.0, completed=stage.share, width=24)
            body = Table.grid(padding=(0, 2))
            body.add_row(*([bar] if bar else []), Text(stage.text))
            table.add_row(
                Text(mark, style=style),
                Text(stage.name),
                Text(took, style="dim"),
                Group(body, *(Text(detail, style="dim") for detail in stage.details)),
            )
        elapsed = duration(now - self._started_s)
        return Group(Text.assemble((self._title, "bold"), (f"   {elapsed}", "dim")), table)


def duration(seconds: float) -> str:
    """1:05 for 65 seconds, 1:01:05 for an hour more."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def _before_first_step(facts: dict[str, Any]) -> str:
    groups, workers = facts["groups"], facts["rollout_workers"]
    if not any(worker["serving"] for worker in workers):
        return "engines and learner are starting"
    under_way = (facts["held_out"] or {}).get("under_way")
    if under_way and under_way["goes_first"]:
        return _under_way(under_way)
    tokens_per_s = sum(worker["num_tokens"] / worker["busy_s"] for worker in workers if worker.get("busy_s"))
    speed = f"   {tokens_per_s:,.0f} tokens/s" if tokens_per_s else ""
    if facts["num_in_training"]:
        return f"the learner trains on the first batch, {facts['num_in_training']} groups{speed}"
    begun = f" (the learner has begun with {facts['num_begun']})" if facts["num_begun"] else ""
    return (
        f"sampling the first batch of {facts['groups_per_step']} groups: {groups['buffered']} scored{begun}, "
        f"{groups['leased']} being sampled or scored{speed}"
    )


def describe_training(facts: dict[str, Any]) -> tuple[float, str, list[str]]:
    """Share done, headline and details of a running training, from the controller's facts."""
    share = facts["step"] / facts["steps"]
    details = [f"metrics {facts['metrics_url']}"]
    if "reward" not in facts:
        return share, _before_first_step(facts), details
    num_select = facts["num_select"]
    left = f", {duration(facts['eta_s'])} left" if facts["eta_s"] else ""
    headline = (
        f"step {facts['step']}/{facts['steps']}{left}   reward {facts['reward']:.3f}   "
        f"pass@{num_select} {facts['pass_at_n']:.3f}"
    )
    if abs(facts["bon"] - facts["pass_at_n"]) > 1e-9:
        headline += f"   best-of-{num_select} {facts['bon']:.3f}"
    if "majority_at_n" in facts:
        headline += f"   majority@{num_select} {facts['majority_at_n']:.3f}"
    if "win_rate" in facts:
        headline += f"   win rate {facts['win_rate']:.3f}, best-of-{num_select} {facts['bon_win_rate']:.3f}"
    difference = (
        f"{facts['parity_mean']:.0e} (max {facts['parity_max']:.0e})"
        if facts["parity_tokens"]
        else "not compared in this step"
        + (", no sample had a weight" if facts["steps_without_learning"] else "")
    )
    speed = (
        f"{facts['tokens_per_s']:,.0f} tokens/s   {facts['sequences_per_s']:,.0f} sequences/s   "
        f"staleness {facts['staleness_mean']:.2f} (max {facts['staleness_max']:.0f})   "
        f"engine-learner log-prob difference {difference}"
    )
    gradient = (
        f"learning rate {facts['learning_rate']:.2g}   gradient norm {facts['grad_norm']:.2g}, "
        f"clipped in {facts['clipped_fraction']:.0%} of recent steps"
    )
    held_out = facts["held_out"]
    evaluated = [describe_held_out(held_out)] if held_out and held_out["newest"] else []
    if held_out and held_out["under_way"]:
        evaluated.append(_under_way(held_out["under_way"]))
    idle_steps = facts["steps_without_learning"]
    idle = [f"nothing learned for {idle_steps} steps: no sample had a weight"] if idle_steps > 1 else []
    return share, headline, [*idle, *evaluated, speed, gradient, *details]


def describe_held_out(held_out: dict[str, Any]) -> str:
    """The newest evaluation of a running training, and which one is the best."""
    row = held_out["newest"]
    found = []
    for name in held_out["shown"]:
        if name in row["estimates"]:
            change = (
                f", {_estimate(row['differences'][name], '+')} to the base"
                if name in row["differences"]
                else ""
            )
            found.append(f"{name} {_estimate(row['estimates'][name])}{change}")
    oldest, newest = row["oldest_version"], row["newest_version"]
    versions = f"version {newest}" if oldest == newest else f"versions {oldest} to {newest}"
    best = held_out["best"]
    kept = f"   best so far: step {best['step']}, {best['by']} {best['value']:.3f}" if best else ""
    return f"held out at step {row['step']}, {versions}: " + "   ".join(found) + kept


def _under_way(evaluation: dict[str, Any]) -> str:
    waits = ", training waits for it" if evaluation["goes_first"] else ""
    return (
        f"evaluating step {evaluation['step']} on held-out problems: {evaluation['num_done']} of "
        f"{evaluation['num_problems']} scored{waits}"
    )


def _estimate(estimate: dict[str, float], sign: str = "") -> str:
    return f"{estimate['mean']:{sign}.3f} [{estimate['low']:{sign}.3f}, {estimate['high']:{sign}.3f}]"

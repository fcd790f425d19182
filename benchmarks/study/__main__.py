"""The miniature of the paper on this system. `make study`, `make study-quick`, or

.venv/bin/python -m benchmarks.study run --out runs/study      hours; goes on where it was
.venv/bin/python -m benchmarks.study run --quick               two arms, one seed, minutes
.venv/bin/python -m benchmarks.study publish runs/study        its numbers and figures into docs/study.md
.venv/bin/python -m benchmarks.study learned                   the arm with a learned verifier, hours
.venv/bin/python -m benchmarks.study real --svamp F            a real model on SVAMP, hours; goes on where it was
.venv/bin/python -m benchmarks.study publish-real              its numbers and figures into docs/study-real.md
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click
import psutil
from rich.console import Console

from benchmarks.study import archive
from benchmarks.study.arms import ARMS
from benchmarks.study.commands import RunFailed
from benchmarks.study.figures import draw
from benchmarks.study.learned import learned_blocks, learned_tables, run_learned
from benchmarks.study.miniature import CONFIG, OUTLINE, STEPS, Miniature
from benchmarks.study.outcome import Outcome, read_outcome
from benchmarks.study.real_commands import publish_real, real
from benchmarks.study.report import blocks, fill, interval, tables
from benchmarks.study.run import Study, run_study
from benchmarks.study.screen import screen_table
from benchmarks.study.summary import summarise
from cluster.config.parse import load_config
from cluster.fleet.needs import memory_needed
from cluster.run_directory.record import write_atomically
from cluster.terminal.interrupts import Interrupted

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENT = ROOT / "docs" / "study.md"
QUICK_ARMS = ("rloo", "bon16")


def default_jobs() -> int:
    """As many runs at a time as there are cores and there is memory for, at least one."""
    needed = sum(memory_needed(load_config(CONFIG, [])).values())
    return max(1, min(os.cpu_count() or 1, int(psutil.virtual_memory().available / needed)))


@click.group()
def study() -> None:
    """Train and compare the study's arms."""


study.add_command(real)
study.add_command(publish_real)


@study.command()
@click.option("--out", type=click.Path(path_type=Path), help="[default: runs/study, or runs/study-quick]")
@click.option("--seeds", "num_seeds", default=5, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--jobs",
    "num_jobs",
    default=default_jobs,
    show_default="as cores and memory allow",
    type=click.IntRange(min=1),
)
@click.option("--steps", default=STEPS, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--arm", "arms", multiple=True, type=click.Choice(list(ARMS)), help="Only these; may be repeated."
)
@click.option("--quick", is_flag=True, help="Two arms, one seed, at the learning rates the full study chose.")
def run(
    out: Path | None, num_seeds: int, num_jobs: int, steps: int, arms: tuple[str, ...], quick: bool
) -> None:
    """Run what is missing, then report. Interrupt it at will: the same command goes on."""
    learning_rates = None
    if quick:
        published = json.loads((RESULTS / "study.json").read_text())
        learning_rates = {row["name"]: row["learning_rate"] for row in published["arms"]}
        arms, num_seeds = arms or QUICK_ARMS, 1
    directory = (out or Path("runs") / ("study-quick" if quick else "study")).absolute()
    outcome = run_study(
        Study(directory, Miniature(steps=steps)),
        arms or tuple(ARMS),
        num_seeds=num_seeds,
        num_jobs=num_jobs,
        learning_rates=learning_rates,
    )
    show(outcome, directory)
    if outcome.failures:
        raise click.ClickException(f"{len(outcome.failures)} runs failed; the rest is reported above")


@study.command()
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
def publish(directory: Path) -> None:
    """Put the study in DIRECTORY into benchmarks/results and docs/study.md."""
    outcome = read_outcome(directory, OUTLINE)
    results = summarise(OUTLINE, outcome.policies, outcome.tuning, outcome.failures)
    write_atomically(RESULTS / "study.json", json.dumps(results, indent=1) + "\n")
    identity = json.loads((directory / "identity.json").read_text())
    archive.pack(directory / "results", RESULTS / "study.parquet", {"identity": identity})
    draw(results, DOCUMENT.parent)
    write_atomically(DOCUMENT, fill(DOCUMENT.read_text(), blocks(results)))


@study.command()
@click.argument("directory", type=click.Path(path_type=Path))
def restore(directory: Path) -> None:
    """Make DIRECTORY hold the published policies' results, so that `run --out DIRECTORY` goes on from them."""
    study, held = Study(directory, Miniature()), archive.about(RESULTS / "study.parquet")
    if held:  # what was published earlier does not say
        archive.check_identity(
            study.design.identity(), held["identity"], RESULTS / "study.parquet", "--archive"
        )
    study.claim()
    archive.unpack(RESULTS / "study.parquet", directory / "results")


@study.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/study-learned"), show_default=True)
@click.option("--seeds", "num_seeds", default=5, show_default=True, type=click.IntRange(min=1))
@click.option("--publish", "is_published", is_flag=True, help="Put the result into docs/study.md as well.")
def learned(out: Path, num_seeds: int, is_published: bool) -> None:
    """BoN-RL-V with a learned verifier: run what is missing, then report (hours; goes on where it was)."""
    results = run_learned(out.absolute(), num_seeds=num_seeds)
    console = Console(highlight=False)
    for rows in learned_tables(results).values():
        console.print(screen_table(rows))
    write_atomically(out / "study-learned.json", json.dumps(results, indent=1))
    console.print(f"{out / 'study-learned.json'}", soft_wrap=True)
    if is_published:
        write_atomically(RESULTS / "study-learned.json", json.dumps(results, indent=1) + "\n")
        write_atomically(DOCUMENT, fill(DOCUMENT.read_text(), learned_blocks(results)))
    if results["failures"]:
        raise click.ClickException(f"{len(results['failures'])} runs failed; the rest is reported above")


def show(outcome: Outcome, directory: Path) -> None:
    """Tables on the screen; study.json and the pictures in the directory."""
    results = summarise(OUTLINE, outcome.policies, outcome.tuning, outcome.failures)
    write_atomically(directory / "study.json", json.dumps(results, indent=1))
    console = Console(highlight=False)
    for name, rows in tables(results).items():
        if name != "tuning":
            console.print(screen_table(rows))
    for failure in outcome.failures.values():
        console.print(failure, markup=False, soft_wrap=True, style="red")
    for line in signs(results):
        console.print(line, markup=False)
    for path in [directory / "study.json", *draw(results, directory)]:
        console.print(str(path), soft_wrap=True)


def signs(results: dict[str, Any]) -> list[str]:
    """The paper's two main signs, each shown or not shown."""
    rows = {row["name"]: row for row in results["arms"]}
    lines = []
    for arm, claim, direction in (("rloo", "standard RL lowers", -1), ("bon16", "BoN-aware RL raises", +1)):
        if row := rows.get(arm):
            change = row["changes"]["pass@32"]
            shown = min(direction * change["low"], direction * change["high"]) > 0
            verdict = "shown" if shown else "NOT shown: the interval holds 0"
            if row["num_seeds"] == 1:
                verdict += ", over the problems of one seed"
            lines.append(f"{claim} pass@32: {interval(change).strip('*')}   {verdict}")
    return lines


if __name__ == "__main__":
    try:
        study(standalone_mode=True)
    except Interrupted as stop:
        print(f"study: {stop}", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, RunFailed) as error:
        print(f"study: {error}", file=sys.stderr)
        sys.exit(1)

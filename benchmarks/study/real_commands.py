"""`real` and `publish-real` of `python -m benchmarks.study`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks.study import archive
from benchmarks.study.figures import draw
from benchmarks.study.outcome import outcome_of
from benchmarks.study.pilot import run_pilot
from benchmarks.study.real import FULL, REHEARSAL, RealStudy, Sources
from benchmarks.study.real_arms import ARMS, OUTLINE
from benchmarks.study.real_report import PANELS, has_curves, real_blocks, real_tables
from benchmarks.study.report import fill
from benchmarks.study.run import Study, run_study
from benchmarks.study.screen import screen_table
from benchmarks.study.summary import summarise
from cluster.run_directory.record import write_atomically

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
ARCHIVE = RESULTS / "study-real.parquet"
DOCUMENT = ROOT / "docs" / "study-real.md"

FILE = click.Path(path_type=Path, exists=True)


@click.command()
@click.option("--model", type=FILE, default=Path("runs/smollm2"), show_default=True, help="`make real-model`")
@click.option("--svamp", type=FILE, required=True, help="SVAMP's problems, JSON lines as published.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/study-real"), show_default=True)
@click.option("--seeds", "num_seeds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--arm", "arms", multiple=True, type=click.Choice(list(ARMS)), help="Only these; may be repeated."
)
@click.option(
    "--archive",
    "kept_in",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Every result goes into it, and another directory goes on from it.  [default: in benchmarks/results]",
)
@click.option("--pilot", is_flag=True, help="Only sample the untrained models, and say what they are worth.")
@click.option("--rehearse", is_flag=True, help="Every part once, in minutes; the numbers mean nothing.")
def real(
    model: Path,
    svamp: Path,
    out: Path,
    num_seeds: int,
    arms: tuple[str, ...],
    kept_in: Path | None,
    pilot: bool,
    rehearse: bool,
) -> None:
    """Run what is missing of the study on a real model, then report. Interrupt it at will: the same command goes on."""
    directory = out.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    kept_in = (kept_in or (directory / "archive.parquet" if rehearse else ARCHIVE)).absolute()
    sources = Sources(model=model.absolute(), svamp=svamp)
    samples = kept_in.with_name(f"{kept_in.stem}-base.parquet")
    design = RealStudy(sources, sizes=REHEARSAL if rehearse else FULL, kept_samples=samples)
    console = Console(highlight=False)
    if pilot:
        console.print(screen_table(run_pilot(directory, design, lambda text: console.print(text))))
        return
    study = Study(directory, design, kept_in=kept_in)
    outcome = run_study(study, arms or tuple(ARMS), num_seeds=num_seeds, num_jobs=1, learning_rates=None)
    results = summarise(design.outline, outcome.policies, outcome.tuning, outcome.failures)
    show(results, directory, console)
    if outcome.failures:
        raise click.ClickException(f"{len(outcome.failures)} runs failed; the rest is reported above")


@click.command()
@click.argument("kept_in", type=FILE, default=ARCHIVE)
def publish_real(kept_in: Path) -> None:
    """Put what the archive KEPT_IN holds into benchmarks/results and docs/study-real.md."""
    results = read_archive(kept_in)
    write_atomically(RESULTS / "study-real.json", json.dumps(results, indent=1) + "\n")
    if has_curves(results):
        draw(results, DOCUMENT.parent, OUTLINE.name, PANELS)
    write_atomically(DOCUMENT, fill(DOCUMENT.read_text(), real_blocks(results)))


def read_archive(kept_in: Path) -> dict[str, Any]:
    """The results of all that it holds."""
    about = archive.about(kept_in)
    with tempfile.TemporaryDirectory() as results:
        archive.unpack(kept_in, Path(results))
        outcome = outcome_of(Path(results), OUTLINE, about.get("failures", {}))
    return summarise(OUTLINE, outcome.policies, outcome.tuning, outcome.failures)


def show(results: Mapping[str, Any], directory: Path, console: Console) -> None:
    """Tables on the screen; results and pictures in the directory."""
    write_atomically(directory / "study.json", json.dumps(results, indent=1))
    for rows in real_tables(results).values():
        console.print(screen_table(rows))
    for failure in results["failures"].values():
        console.print(failure, markup=False, soft_wrap=True, style="red")
    for path in [directory / "study.json", *draw(results, directory, OUTLINE.name, PANELS)]:
        console.print(str(path), soft_wrap=True)

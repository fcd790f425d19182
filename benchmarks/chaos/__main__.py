"""A real run on four Ray nodes of this machine, random faults, and the count of what was lost: `make chaos`.

    \b
    python -m benchmarks.chaos
    python -m benchmarks.chaos --seed 7 --only "rollout worker killed" --count 5 --calm

Prints each fault as it strikes and as it is overcome, then a table. Exit code 1 if a group was lost or trained twice, a
fault was not overcome in its time, or a process was left. Logs and result.json lie in --out.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random, randrange

import click
import psutil
from rich.console import Console

from benchmarks.chaos.campaign import FINISH_TIMEOUT_S, Campaign, longest_wait_s
from benchmarks.chaos.faults import FAULTS, deal
from benchmarks.chaos.invariant import account
from benchmarks.chaos.laboratory import laboratory, what_is_missing
from benchmarks.chaos.processes import OF_A_RUN, title
from benchmarks.chaos.results import result, show
from benchmarks.chaos.world import World

RESULTS = Path(__file__).resolve().parents[1] / "results"
LEAK_TIMEOUT_S = 30.0


@click.command(help=__doc__)
@click.option("--count", default=52, show_default=True, type=click.IntRange(min=1))
@click.option("--minutes", default=16.0, show_default=True, help="No fault strikes later.")
@click.option("--seed", type=int, help="[default: a random one]")
@click.option("--only", multiple=True, type=click.Choice(list(FAULTS)), help="Only these; may be repeated.")
@click.option("--calm", is_flag=True, help="One fault at a time.")
@click.option("--patience", default=1.0, show_default=True, help="Times the bounds, for a busy machine.")
@click.option("--out", type=click.Path(path_type=Path), help="A new directory. [default: runs/chaos-<time>]")
@click.option("--publish", metavar="NAME", help="Write the result to benchmarks/results/NAME.json too.")
def chaos(
    count: int,
    minutes: float,
    seed: int | None,
    only: tuple[str, ...],
    calm: bool,
    patience: float,
    out: Path | None,
    publish: str | None,
) -> None:
    console = Console(highlight=False)
    started_s = time.monotonic()

    def say(line: str) -> None:
        console.print(f"{time.monotonic() - started_s:6.0f} s  {line}", soft_wrap=True, markup=False)

    seed = randrange(1 << 31) if seed is None else seed
    missing = what_is_missing()
    left_out = {
        name: missing[need] for name, fault in FAULTS.items() for need in fault.needs if need in missing
    }
    names = deal([name for name in only or FAULTS if name not in left_out], count, Random(seed))
    say(f"{count} faults, seed {seed}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    directory = (out or Path("runs") / f"chaos-{time.strftime('%Y%m%d-%H%M%S')}").absolute()
    if directory.exists() and any(directory.iterdir()):
        raise click.BadParameter(f"{directory} is not empty: give another", param_hint="--out")
    directory.mkdir(parents=True, exist_ok=True)
    with laboratory(directory, missing=missing, seed=seed) as world:
        campaign = Campaign(world, names, calm=calm, patience=patience, max_s=60 * minutes, say=say)
        try:
            campaign.run()
        except RuntimeError as error:
            raise click.ClickException(f"{error}\nlogs: {directory}") from error
        finally:
            campaign.close()
        say("stopping the run")
        exit_code = _finish(world)
        leaked = _left_by_run(world)
        world.watch.end()
        left = world.family.end()
        shown = result(
            campaign.strikes,
            account(world.driver.run_dir),
            wanted=count,
            seed=seed,
            seconds=time.monotonic() - started_s,
            left_out=left_out,
            resumes=world.driver.num_resumes,
            clusters=world.cluster.num_restarts,
            exit_code=exit_code,
            leaked=leaked,
            left=left,
        )
        if calm:
            for name, row in shown["faults"].items():
                those = [strike for strike in campaign.strikes if strike.name == name]
                row["learner_waited_longest_s"] = max(
                    longest_wait_s(world.driver.run_dir, strike) for strike in those
                )
    for path in (directory / "result.json", *([RESULTS / f"{publish}.json"] if publish else [])):
        path.write_text(json.dumps(shown, indent=1) + "\n")
    show(shown, console)
    sys.exit(1 if shown["failures"] else 0)


def _finish(world: World) -> int | None:
    """Stop the run in order, with a checkpoint; its exit code, None when it does not end."""
    ends_s = time.monotonic() + FINISH_TIMEOUT_S
    while not world.is_whole and time.monotonic() < ends_s:
        world.mend()
        time.sleep(0.5)
    try:
        return world.driver.finish(FINISH_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return None


def _left_by_run(world: World) -> list[str]:
    """Processes of the run that have not ended some time after it has."""
    ends_s = time.monotonic() + LEAK_TIMEOUT_S
    while (left := world.family.find(*OF_A_RUN)) and time.monotonic() < ends_s:
        time.sleep(0.2)
    return [_described(process) for process in left]


def _described(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {title(process)[:100]}"
    except psutil.NoSuchProcess:
        return f"{process.pid}"


if __name__ == "__main__":
    chaos()

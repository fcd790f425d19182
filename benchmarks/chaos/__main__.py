"""A real run on four Ray nodes of this machine, random faults, and the count of what was lost: `make chaos`.

    \b
    python -m benchmarks.chaos
    python -m benchmarks.chaos --seed 7 --only "rollout worker killed" --count 5 --calm

Prints each fault as it strikes and as it is overcome, then a table. Exit code 1 if a group was lost or trained twice, a
fault was not overcome in its time, or a process was left. Logs and result.json lie in --out.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from random import Random, randrange
from tempfile import TemporaryDirectory

import click
import psutil
from rich.console import Console

from benchmarks.chaos.campaign import FINISH_TIMEOUT_S, Campaign, longest_wait_s
from benchmarks.chaos.cluster import NODES, Cluster
from benchmarks.chaos.driver import NAME, Driver
from benchmarks.chaos.faults import FAULTS, deal
from benchmarks.chaos.invariant import account
from benchmarks.chaos.network import Network, why_not_separate
from benchmarks.chaos.processes import OF_A_RUN, Family, title
from benchmarks.chaos.results import result, show
from benchmarks.chaos.watch import Watch
from benchmarks.chaos.world import World, small_disk
from cluster.config import TrainConfig

RESULTS = Path(__file__).resolve().parents[1] / "results"
LEAK_TIMEOUT_S = 30.0


def what_is_missing() -> dict[str, str]:
    """What a fault may need, and why it cannot be had here."""
    with_sandbox = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"]
    found = {
        "namespaces": why_not_separate(),
        "mount": "" if os.geteuid() == 0 else "mounting a small disk needs root",
        "sandbox": "" if _succeeds(with_sandbox) else "bubblewrap cannot run here",
        "checked checkpoints": ""
        if "max_recoveries" in TrainConfig.model_fields
        else "this version does not check its checkpoints",
    }
    return {what: why for what, why in found.items() if why}


@click.command(help=__doc__)
@click.option("--count", default=52, show_default=True, type=click.IntRange(min=1))
@click.option("--minutes", default=17.0, show_default=True, help="No fault strikes later.")
@click.option("--seed", type=int, help="[default: a random one]")
@click.option("--only", multiple=True, type=click.Choice(list(FAULTS)), help="Only these; may be repeated.")
@click.option("--calm", is_flag=True, help="One fault at a time.")
@click.option("--out", type=click.Path(path_type=Path), help="A new directory. [default: runs/chaos-<time>]")
@click.option("--publish", metavar="NAME", help="Write the result to benchmarks/results/NAME.json too.")
def chaos(
    count: int,
    minutes: float,
    seed: int | None,
    only: tuple[str, ...],
    calm: bool,
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
    with ExitStack() as stack:
        ray_dir = Path(stack.enter_context(TemporaryDirectory(prefix="bf", dir="/tmp")))
        disk = stack.enter_context(small_disk(directory / "disk", wanted="mount" not in missing))
        family = Family()
        network = stack.enter_context(Network(list(NODES), separate="namespaces" not in missing))
        stack.callback(family.end)
        cluster = Cluster(family, network, ray_dir=ray_dir, logs=directory)
        driver = Driver(family, cluster, directory, run_dir=(disk or directory) / NAME)
        driver.prepare(reward="countdown" if "sandbox" in missing else "python_tests")
        cluster.start()
        watch = Watch(family, cluster, NAME, directory / "watch.log")
        world = World(
            family=family,
            network=network,
            cluster=cluster,
            driver=driver,
            watch=watch,
            disk=disk,
            seed=seed,
        )
        campaign = Campaign(world, names, calm=calm, max_s=60 * minutes, say=say)
        stack.callback(campaign.close)
        campaign.run()
        campaign.close()
        say("stopping the run")
        exit_code = _finish(world, driver)
        leaked = _left_by_run(family)
        watch.end()
        shown = result(
            campaign.strikes,
            account(driver.run_dir),
            wanted=count,
            seed=seed,
            seconds=time.monotonic() - started_s,
            left_out=left_out,
            resumes=driver.num_resumes,
            clusters=cluster.num_restarts,
            exit_code=exit_code,
            leaked=leaked,
            left=family.end(),
        )
        if calm:
            for name, row in shown["faults"].items():
                those = [strike for strike in campaign.strikes if strike.name == name]
                row["learner_waited_longest_s"] = max(longest_wait_s(driver.run_dir, one) for one in those)
        if disk:
            shutil.copytree(driver.run_dir, directory / NAME)
    for path in (directory / "result.json", *([RESULTS / f"{publish}.json"] if publish else [])):
        path.write_text(json.dumps(shown, indent=1) + "\n")
    show(shown, console)
    sys.exit(1 if shown["failures"] else 0)


def _finish(world: World, driver: Driver) -> int | None:
    """Stop the run in order, with a checkpoint; its exit code, None when it does not end."""
    ends_s = time.monotonic() + FINISH_TIMEOUT_S
    while not world.is_whole and time.monotonic() < ends_s:
        world.mend()
        time.sleep(0.5)
    try:
        return driver.finish(FINISH_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return None


def _left_by_run(family: Family) -> list[str]:
    """Processes of the run that have not ended some time after it has."""
    ends_s = time.monotonic() + LEAK_TIMEOUT_S
    while (left := family.find(*OF_A_RUN)) and time.monotonic() < ends_s:
        time.sleep(0.2)
    return [_described(process) for process in left]


def _described(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {title(process)[:100]}"
    except psutil.NoSuchProcess:
        return f"{process.pid}"


def _succeeds(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=20).returncode == 0
    except OSError:
        return False


if __name__ == "__main__":
    chaos()

"""`bonfire status`: what the running controllers say of their runs."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from cluster import find_run
from cluster.console import describe_training, duration
from cluster.find_run import FoundRun
from cluster.record import without_infinities


def show_status(run: str | None, address: str | None, *, as_json: bool) -> None:
    """Print the facts of a running run. Raises ValueError when there is none."""
    found = find_run.find_run(run, address)
    console = Console(highlight=False, markup=False)
    if not found.has_controller:
        if as_json:
            print(json.dumps({**dataclasses.asdict(found), "run_dir": str(found.run_dir)}, indent=1))
            return
        console.print(f"{found.label}   {_since(found)}", style="bold", soft_wrap=True)
        console.print(f"  driver: pid {found.pid}" if found.pid else "  driven on another machine")
        return
    facts = find_run.ask(found, "facts")
    if as_json:
        print(json.dumps(without_infinities(facts), indent=1))
        return
    _, headline, details = describe_training(facts, facts["num_select"])
    console.print(f"{found.label}   {facts['stage']}", style="bold", soft_wrap=True)
    for line in (headline, *details):
        console.print(f"  {line}", soft_wrap=True)
    groups = facts["groups"]
    console.print("  groups: " + ", ".join(f"{count:,} {state}" for state, count in groups.items()))
    for line in describe_workers(facts):
        console.print(f"  {line}", soft_wrap=True)


def describe_workers(facts: dict[str, Any]) -> list[str]:
    """What each worker does, what is waited for, and how many there are to be since which decisions."""
    does = {
        **{
            worker["name"]: f"serves version {worker['version']}"
            for worker in facts["rollout_workers"]
            if worker["serving"]
        },
        **{
            worker["name"]: "judges"
            for worker in facts["verifier_workers"]
            if "verifiers" in worker["startup_s"]
        },
    }
    lines = []
    for worker in (*facts["rollout_workers"], *facts["verifier_workers"]):
        process = f"pid {worker['pid']}" if worker["pid"] else "no process yet"
        leaving = ", leaving" if worker["leaving"] else ""
        lines.append(f"{worker['name']}: {process}, {does.get(worker['name'], 'starting')}{leaving}")
    lines += [f"waiting for resources: {text}" for text in facts["waiting_for"]]
    lines += [f"scaled: {text}" for text in facts["decisions"]]
    targets, restarts = facts["targets"], facts["restarts"]
    lines.append(f"wanted: {targets['rollout']} rollout, {targets['verifier']} verifier workers")
    lines.append(f"replaced: {restarts['rollout']} rollout, {restarts['verifier']} verifier workers")
    return lines


def show_all(address: str | None) -> None:
    """Print a line for every run of this machine that is alive, or of the cluster at `address`."""
    if address is None:
        every = find_run.runs_alive(find_run.RUNS)
    else:
        every = [find_run.find_run(name, address) for name in find_run.names_on(address)]
    table = Table(box=None, pad_edge=False)
    for column in ("run", "stage", "step"):
        table.add_column(column)
    for found in every:
        stage, step = _stage_and_step(found)
        table.add_row(found.label, stage, step)
    console = Console(highlight=False)
    where = find_run.on(address) if address else f"under {find_run.RUNS}/"
    console.print(table if every else f"no run {where} is alive")


def _stage_and_step(found: FoundRun) -> tuple[str, str]:
    """A run that ends while it is asked is no failure of the list."""
    if not found.has_controller:
        return _since(found), ""
    try:
        facts: dict[str, Any] = find_run.ask(found, "facts")
    except ValueError as error:
        return str(error), ""
    finally:
        if found.run_dir:  # the next one may have another cluster
            find_run.disconnect()
    return facts["stage"], f"{facts['step']}/{facts['steps']}"


def _since(found: FoundRun) -> str:
    return f"{found.stage}, for {duration(time.time() - found.stage_since)}"

"""`bonfire status`: what the running controllers say of their runs."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from cluster.jobs import asking, find_run, joining, ray_jobs
from cluster.jobs.find_run import FoundRun
from cluster.run_directory.record import without_infinities
from cluster.terminal.console import describe_training, duration


def show_status(run: str | None, address: str | None, *, as_json: bool) -> None:
    """Print the facts of a running run. Raises ValueError when there is none."""
    found = find_run.find_run(run, address)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not found.has_controller:
        _show_without_controller(found, console, as_json=as_json)
        return
    facts = asking.ask(found, "facts")
    if as_json:
        print(json.dumps(without_infinities(facts), indent=1))
        return
    _, headline, details = describe_training(facts)
    console.print(f"{found.label}   {facts['stage']}", style="bold")
    groups = "groups: " + ", ".join(f"{count:,} {state}" for state, count in facts["groups"].items())
    for line in (headline, *details, groups, *describe_workers(facts), *facts["events"]):
        console.print(f"  {line}")


def _show_without_controller(found: FoundRun, console: Console, *, as_json: bool) -> None:
    """What its directory says of it or, where that is not at hand, its job and the end of that one's log."""
    about = {**dataclasses.asdict(found), "run_dir": str(found.run_dir) if found.run_dir else None}
    headline = f"{found.label}   {_since(found)}"
    lines = [f"driver: pid {found.pid}" if found.pid else "driven on another machine"]
    if found.run_dir is None:
        assert found.job is not None
        lines = ray_jobs.end_of_log(ray_jobs.connect(found.address), found.address, found.job)
        about["log"] = lines
        headline = (
            f"{found.label}   no controller at the moment: job {found.job} is {found.stage} for {_duration(found)}; "
            + ("the end of its log:" if lines else "its log is empty")
        )
    if as_json:
        print(json.dumps(about, indent=1))
        return
    console.print(headline, style="bold")
    for line in lines:
        console.print(f"  {line}")


def describe_workers(facts: dict[str, Any]) -> list[str]:
    """What each worker and rank does, what is waited for, and how many there are to be since which decisions.

    With the node of each where they are on more than one.
    """
    workers, ranks = [*facts["rollout_workers"], *facts["verifier_workers"]], facts["learner_ranks"]
    does = {
        **{
            worker["name"]: f"serves version {worker['version']}" + _prefilled_again(worker)
            for worker in facts["rollout_workers"]
            if worker["serving"]
        },
        **{
            worker["name"]: "judges"
            for worker in facts["verifier_workers"]
            if "verifiers" in worker["startup_s"]
        },
        **{worker["name"]: "does not answer" for worker in workers if worker["silent"]},
    }
    shows_nodes = len({one["node_id"] for one in (*workers, *ranks)} - {""}) > 1

    def process(one: dict[str, Any]) -> str:
        where = f" on node {one['node_id'][:8]}" if shows_nodes and one["node_id"] else ""
        return f"pid {one['pid']}{where}" if one["pid"] else "no process yet"

    lines = []
    for worker in workers:
        leaving = ", leaving" if worker["leaving"] else ""
        lines.append(f"{worker['name']}: {process(worker)}, {does.get(worker['name'], 'starting')}{leaving}")
    for number, rank in enumerate(ranks):
        lines.append(f"learner{f' rank {number}' if len(ranks) > 1 else ''}: {process(rank)}")
    lines += [f"limited by {facts['limited_by']}"] if facts["limited_by"] else []
    lines += [f"waiting for resources: {text}" for text in facts["waiting_for"]]
    lines += [f"scaled: {text}" for text in facts["decisions"]]
    lines += [f"set aside: problem {one['problem_id']}: {one['error']}" for one in facts["unjudged_problems"]]
    targets, restarts = facts["targets"], facts["restarts"]
    lines.append(f"wanted: {targets['rollout']} rollout, {targets['verifier']} verifier workers")
    lines.append(f"replaced: {restarts['rollout']} rollout, {restarts['verifier']} verifier workers")
    return lines


def _prefilled_again(worker: dict[str, Any]) -> str:
    num_tokens = worker.get("num_reprefilled_tokens", 0)
    share = num_tokens / max(1, worker.get("num_tokens", 0))
    return (
        f", updates made it compute {num_tokens:,} tokens again ({share:.0%} of those sampled)"
        if num_tokens
        else ""
    )


def show_all(address: str | None) -> None:
    """Print a line for every run of this machine that is alive, or of the cluster at `address`."""
    every = find_run.runs_alive(find_run.RUNS) if address is None else find_run.runs_on(address)
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
        if found.run_dir is None:
            return f"no controller, for {_duration(found)}", f"job {found.stage}"
        return _since(found), ""
    try:
        facts: dict[str, Any] = asking.ask(found, "facts")
    except ValueError as error:
        return str(error), ""
    finally:
        if found.run_dir:  # the next one may have another cluster
            joining.disconnect()
    return facts["stage"], f"{facts['step']}/{facts['steps']}"


def _since(found: FoundRun) -> str:
    return f"{found.stage}, for {_duration(found)}"


def _duration(found: FoundRun) -> str:
    return duration(max(0.0, time.time() - found.stage_since))

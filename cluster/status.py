"""`bonfire status`: what the running controller says of itself."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.console import describe_training
from cluster.launch import CONTROLLER_NAME, set_ray_environment
from cluster.record import RUN_FILE, without_infinities
from cluster.resume import is_alive

ANSWER_TIMEOUT_S = 10.0


def show_status(run_dir: Path | None, *, as_json: bool) -> None:
    """Print the facts of a running controller. Raises ValueError when there is none."""
    run_dir = run_dir or newest_run(Path("runs"))
    facts = ask(run_dir)
    console = Console(highlight=False, markup=False)
    if as_json:
        print(json.dumps(without_infinities(facts), indent=1))
        return
    _, headline, details = describe_training(facts, facts["num_select"])
    console.print(f"{run_dir}   {facts['stage']}", style="bold", soft_wrap=True)
    for line in (headline, *details):
        console.print(f"  {line}", soft_wrap=True)
    groups = facts["groups"]
    console.print("  groups: " + ", ".join(f"{count:,} {state}" for state, count in groups.items()))
    for worker in facts["rollout_workers"]:
        state = f"serves version {worker['version']}" if worker["serving"] else "starting"
        console.print(f"  {worker['name']}: pid {worker['pid']}, {state}")
    for worker in facts["verifier_workers"]:
        console.print(f"  {worker['name']}: pid {worker['pid']}")
    restarts = facts["restarts"]
    console.print(f"  replaced: {restarts['rollout']} rollout, {restarts['verifier']} verifier workers")


def newest_run(runs: Path) -> Path:
    """The run directory started last. Raises ValueError when there is none."""
    files = sorted(runs.glob(f"*/{RUN_FILE}"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise ValueError(
            f"no run under {runs}/ has begun its training: start one with bonfire train, or give its directory "
            "(one that still makes its base model cannot be asked yet)"
        )
    return files[-1].parent


def ask(run_dir: Path) -> dict[str, Any]:
    """Facts from the controller of a run. Raises ValueError when the run is not there or has ended."""
    try:
        about = json.loads((run_dir / RUN_FILE).read_text())
    except FileNotFoundError:
        raise ValueError(f"{run_dir} has no {RUN_FILE}: it is no run directory") from None
    if about["local"] and not is_alive(about["pid"]):
        raise ValueError(f"the run in {run_dir} has ended; its numbers are in {run_dir}/metrics.jsonl")
    set_ray_environment(local=about["local"])
    import ray

    try:
        ray.init(
            address=about["address"],
            namespace=about["namespace"],
            logging_level=logging.CRITICAL,
            log_to_driver=False,
        )
        controller = ray.get_actor(CONTROLLER_NAME)
        answer: Any = controller.facts.remote()
        return dict(ray.get(answer, timeout=ANSWER_TIMEOUT_S))
    except (ConnectionError, ray.exceptions.RayError, ValueError) as error:
        raise ValueError(
            f"no controller answers for {run_dir} at {about['address']} ({type(error).__name__}): its training has ended, and it may be "
            f"evaluating; its numbers are in {run_dir}/metrics.jsonl"
        ) from None

"""Start the controller, follow it to the end."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from cluster.config import RunConfig
from cluster.recovery import Origin, RunLost

CONTROLLER_NAME = "bonfire-controller"
JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray for a job's entrypoint: its runtime environment and metadata."""
FOLLOW_EVERY_S = 0.5
ANSWER_TIMEOUT_S = 60.0
FIRST_ANSWER_TIMEOUT_S = 300.0
"""Ray starts the controller's process, which imports torch."""
DEATH_TIMEOUT_S = 60.0
LAST_REQUEST_TIMEOUT_S = 5.0
ACTOR_PROCESSES = tuple(f"ray::{role}" for role in ("Controller", "Learner", "Rollout", "Verifier"))


def job_metadata() -> dict[str, str] | None:
    """What Ray knows of the job whose entrypoint this process is; None outside a job."""
    text = os.environ.get(JOB_VARIABLE)
    return dict(json.loads(text).get("metadata", {})) if text else None


def check_outlives_job(run_dir: Path) -> None:
    """Raises ValueError for a run directory inside the package that Ray unpacked for a job."""
    if job_metadata() is not None and not run_dir.is_absolute():
        raise ValueError(
            f"run_dir = {str(run_dir)!r} is relative: in a Ray job that is the unpacked upload, which Ray deletes; "
            "set run_dir to an absolute path that all nodes see, for example run_dir=/shared/runs/my-run"
        )


def train(
    config: RunConfig,
    *,
    run_dir: Path,
    namespace: str,
    problems: list[Any],
    prompts: list[tuple[int, ...]],
    demonstrations: list[tuple[int, ...]],
    origin: Origin,
    on_start: Callable[[dict[str, Any]], None],
    on_facts: Callable[[dict[str, Any]], None],
    should_stop: Callable[[], bool],
) -> dict[str, Any]:
    """Run the controller until it ends; `on_start` sees its first facts, `on_facts` those of twice a second.
    Returns the last ones.

    `should_stop` turning true asks the controller to stop after the step in progress. Raises RunLost where the
    same run can go on from its newest checkpoint, else RuntimeError, in one line.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from cluster.controller import Controller

    # Ray would take any node: one on which the metrics port was not checked, and which it then has to keep.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    try:
        controller = Controller.options(  # type: ignore[attr-defined]
            name=CONTROLLER_NAME, namespace=namespace, scheduling_strategy=here
        ).remote(
            config,
            str(run_dir.absolute()),
            problems,
            prompts,
            demonstrations,
            str(origin.checkpoint) if origin.checkpoint else None,
            origin.num_recoveries,
            origin.notes,
        )
    except ValueError as error:  # the name is taken
        raise RuntimeError(
            f"a run named {namespace!r} trains on this cluster already: stop it, or give run_dir another last part"
        ) from error
    has_ended = False
    try:
        on_start(_get(controller.facts.remote(), timeout_s=FIRST_ANSWER_TIMEOUT_S))
        run = controller.run.remote()
        asked = False
        while True:
            done, _ = ray.wait([run], timeout=FOLLOW_EVERY_S)
            if done:
                break
            on_facts(_get(controller.facts.remote(), timeout_s=ANSWER_TIMEOUT_S))
            if should_stop() and not asked:
                asked = True
                controller.stop.remote()
        facts = _get(run)
        has_ended = True
        return facts
    finally:
        ray.kill(controller)
        if not has_ended:
            _ask_for_no_nodes()


def _ask_for_no_nodes() -> None:
    """In the place of a controller that was ended, since an autoscaler would keep the nodes."""
    from ray.exceptions import RayError

    from cluster.nodes import request_nodes

    def ask() -> None:
        with suppress(RayError):  # without a head there is no autoscaler either
            request_nodes([])

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(LAST_REQUEST_TIMEOUT_S)


def wait_for_its_end() -> None:
    """Return when the run's actors are gone: those that Ray knows of, and their processes below this one.

    With their controller they are ended by Ray, which may take some seconds. Raises RuntimeError when it takes too
    long.
    """
    from ray.exceptions import RayError

    from cluster.nodes import living_actors

    deadline_s = time.monotonic() + DEATH_TIMEOUT_S
    while True:
        try:
            left = living_actors() or _actor_processes()
        except RayError as error:
            raise RuntimeError(f"Ray's head does not answer ({type(error).__name__})") from error
        if not left:
            return
        if time.monotonic() > deadline_s:
            raise RuntimeError(
                f"Ray has not ended {', '.join(sorted(left))} of the lost run within {DEATH_TIMEOUT_S:g} s"
            )
        time.sleep(0.1)


def _actor_processes() -> list[str]:
    """Names of our actors' processes on this machine, where its Ray is a private cluster's."""
    names = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            name = next(iter(process.cmdline()), "")
            if name.startswith(ACTOR_PROCESSES) and process.status() != psutil.STATUS_ZOMBIE:
                names.append(name)
    return names


def git_commit() -> str:
    """Commit of the working directory, with `+dirty` for uncommitted changes; empty outside git."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return commit + ("+dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _get(ref: Any, timeout_s: float | None = None) -> Any:
    """The value; an actor's failure becomes RuntimeError with the cause's own message, in one line, or RunLost."""
    import ray
    from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

    from cluster.calls import cause_of_failed_start

    try:
        return ray.get(ref, timeout=timeout_s)
    except RayTaskError as error:
        kind = RunLost if isinstance(error.cause, RunLost) else RuntimeError
        raise kind(str(error.cause) or repr(error.cause)) from error
    except RayActorError as error:
        if error.actor_init_failed:
            raise RuntimeError(f"the controller does not start: {cause_of_failed_start(error)}") from error
        raise RunLost(f"the controller died: {type(error).__name__}") from error
    except GetTimeoutError as error:
        raise RunLost(f"the controller does not answer within {timeout_s:g} s") from error

"""Start the controller, follow it to the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from cluster.config.schema import RunConfig
from cluster.fleet.ray_cluster import CONTROLLER_NAME
from cluster.run.asked import Asked
from cluster.run.recovery import Origin, RunLost

FOLLOW_EVERY_S = 0.5
ANSWER_TIMEOUT_S = 60.0
FIRST_ANSWER_TIMEOUT_S = 300.0
"""Ray starts the controller's process first."""
DEATH_TIMEOUT_S = 60.0
LAST_REQUEST_TIMEOUT_S = 5.0
ACTOR_PROCESSES = tuple(
    f"ray::{role}" for role in ("Controller", "Learner", "Rollout", "Supervised", "Verifier")
)


def train(
    config: RunConfig,
    *,
    run_dir: Path,
    namespace: str,
    problems: list[Any],
    prompts: list[tuple[int, ...]],
    demonstrations: list[tuple[int, ...]],
    asked: Asked,
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

    from cluster.run.controller import Controller

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
            asked,
            origin,
        )
    except ValueError as error:  # the name is taken
        raise RuntimeError(
            f"a run named {namespace!r} trains on this cluster already: stop it, or give run_dir another last part"
        ) from error
    has_ended = False
    try:
        on_start(_get(controller.facts.remote(), timeout_s=FIRST_ANSWER_TIMEOUT_S))
        run = controller.run.remote()
        has_asked = False
        while True:
            done, _ = ray.wait([run], timeout=FOLLOW_EVERY_S)
            if done:
                break
            on_facts(_get(controller.facts.remote(), timeout_s=ANSWER_TIMEOUT_S))
            if should_stop() and not has_asked:
                has_asked = True
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

    from cluster.fleet.nodes import request_nodes

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

    from cluster.fleet.nodes import living_actors

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


def _get(ref: Any, timeout_s: float | None = None) -> Any:
    """The value; an actor's failure becomes RuntimeError with the cause's own message, in one line, or RunLost."""
    import ray
    from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

    from cluster.fleet.calls import cause_of_failed_start

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

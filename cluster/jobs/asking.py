"""The controller of a run that was found, asked across its cluster."""

from __future__ import annotations

from typing import Any

from cluster.fleet.ray_cluster import CONTROLLER_NAME
from cluster.jobs.find_run import FoundRun
from cluster.jobs.joining import connect

ANSWER_TIMEOUT_S = 10.0


def ask(found: FoundRun, method: str, *arguments: Any, **named: Any) -> Any:
    """The answer of its controller. Raises ValueError when it has none, or refuses what it is asked."""
    if not found.has_controller:
        doing = f"job {found.job} is {found.stage}" if found.run_dir is None else f"stage {found.stage!r}"
        raise ValueError(f"{found.label} has no controller at the moment ({doing}): ask again when it trains")
    controller = _controller_of(found)
    import ray.exceptions

    reference = getattr(controller, method).remote(*arguments, **named)
    try:
        return ray.get(reference, timeout=ANSWER_TIMEOUT_S)
    except ray.exceptions.RayTaskError as error:
        raise ValueError(str(error.cause) or repr(error.cause)) from None
    except ray.exceptions.RayError as error:  # a GetTimeoutError too
        raise _no_answer(found, type(error).__name__) from None


def _controller_of(found: FoundRun) -> Any:
    """The handle of its controller. Raises ValueError when there is none."""
    connect(found.address, local=found.local)
    import ray

    try:
        return ray.get_actor(CONTROLLER_NAME, namespace=found.name)
    except ValueError:
        raise _no_answer(found, "there is none") from None
    except ray.exceptions.RayError as error:
        raise _no_answer(found, type(error).__name__) from None


def _no_answer(found: FoundRun, why: str) -> ValueError:
    again = "--resume " + str(found.run_dir or "RUN_DIR")
    where = f"; its numbers are in {found.run_dir}/metrics.jsonl" if found.run_dir else ""
    return ValueError(
        f"no controller answers for {found.label} at {found.address} ({why}){where}; if its command is gone, start that "
        f"again with {again}"
    )

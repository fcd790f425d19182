"""Which run a command means, and the controller that answers for it.

A run is named by its directory on this machine, or by the last part of that directory on a cluster: there
every run's controller is a named actor in a namespace of the run's name.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.launch import CONTROLLER_NAME, set_ray_environment
from cluster.record import RUN_FILE
from cluster.run_file import is_driven_here, read_run_file

RUNS = Path("runs")
ANSWER_TIMEOUT_S = 10.0
SHOWN_NAMES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRun:
    """A run that a command means; `stage` and `pid` are known of one whose directory is on this machine."""

    name: str
    run_dir: Path | None
    address: str
    """Of its Ray cluster; empty while it has none."""
    local: bool
    """Whether that cluster is its own."""
    stage: str
    pid: int | None
    """Of its driver, if that is a process of this machine."""
    job: str | None
    """Submission id of the Ray job that drives it."""
    stage_since: float
    """Time of day, in seconds; 0 where unknown."""

    @property
    def label(self) -> str:
        """What a message calls it."""
        return str(self.run_dir or self.name)

    @property
    def has_controller(self) -> bool:
        return self.stage in ("training", "")


def find_run(run: str | None, address: str | None) -> FoundRun:
    """The run of that directory or name; without one, the only run that is alive.

    `address` is a Ray cluster's HOST:PORT: a name is one there, whatever directories this machine has. Raises ValueError, in one line, when there is none or more than one.
    """
    if run is not None:
        directory = local_directory(run, address)
        if directory:
            return of_directory(directory)
        if address is None:
            raise ValueError(
                f"there is no run {run!r}: neither {run} nor {RUNS / run} has a {RUN_FILE}; "
                "for a run on a cluster give --address HOST:PORT as well"
            )
    if address is None:
        alive = {found.name: found for found in runs_alive(RUNS)}
        return alive[_only_one(list(alive), f"under {RUNS}/")]
    names = names_on(address)
    where = on(address)
    run = run or _only_one(names, where)
    if run not in names:
        raise ValueError(
            f"no run {run!r} trains {where}{_listed(', but ', names)}; one that makes its base model or "
            f"evaluates has no controller to ask, its job has a log: bonfire logs {run}"
        )
    return FoundRun(
        name=run,
        run_dir=None,
        address=address,
        local=False,
        stage="",
        pid=None,
        job=None,
        stage_since=0.0,
    )


def on(address: str) -> str:
    """Where a message says that a run is looked for."""
    return "on this cluster" if address == "auto" else f"on {address}"


def local_directory(run: str, address: str | None) -> Path | None:
    """The directory of a run of this machine, by its path or, without the address of a cluster, by its name under runs/."""
    if address is not None and Path(run).name == run:
        return None
    return next((path for path in (Path(run), RUNS / run) if (path / RUN_FILE).is_file()), None)


def of_directory(run_dir: Path) -> FoundRun:
    """The run in a directory. Raises ValueError when it is over, or the directory is none of a run."""
    about = read_run_file(run_dir)
    driven_here = is_driven_here(about)
    if about.get("stage") == "ended" or (about["local"] and not driven_here):
        raise ValueError(
            f"the run in {run_dir} has ended; its numbers are in {run_dir}/metrics.jsonl; if it is not finished, go on "
            f"with: bonfire train --resume {run_dir}"
        )
    return FoundRun(
        name=about.get("name", run_dir.absolute().name),
        run_dir=run_dir,
        address=about.get("address", ""),
        local=about["local"],
        stage=about.get("stage", ""),
        pid=about["pid"] if driven_here else None,
        job=about.get("job"),
        stage_since=about.get("stage_since", 0.0),
    )


def runs_alive(runs: Path) -> list[FoundRun]:
    """Runs whose driver is a living process of this machine, the one started last first."""
    abouts = [(read_run_file(path.parent), path.parent) for path in runs.glob(f"*/{RUN_FILE}")]
    alive = [(about.get("started", 0.0), path) for about, path in abouts if is_driven_here(about)]
    return [of_directory(path) for _, path in sorted(alive, reverse=True)]


def connect(address: str, *, local: bool) -> None:
    """Join the cluster at HOST:PORT as a driver that only asks. Raises ValueError, in one line."""
    set_ray_environment(local=local)
    import ray

    if ray.is_initialized():
        return
    try:
        ray.init(
            address=address, namespace="bonfire-command", logging_level=logging.CRITICAL, log_to_driver=False
        )
    except (ConnectionError, ray.exceptions.RayError, RuntimeError) as error:
        raise ValueError(
            f"no Ray cluster lets us in at {address} ({type(error).__name__}): check the address, that this is a "
            "node of it (elsewhere give --address http://HEAD:8265), and RAY_AUTH_TOKEN_PATH"
        ) from None


def disconnect() -> None:
    """Leave the cluster, to join another."""
    import ray

    ray.shutdown()


def names_on(address: str) -> list[str]:
    """Names of the runs that train on a cluster, in their order."""
    connect(address, local=False)
    import ray

    actors = ray.util.list_named_actors(all_namespaces=True)
    return sorted(actor["namespace"] for actor in actors if actor["name"] == CONTROLLER_NAME)


def controller_of(found: FoundRun) -> Any:
    """The handle of its controller. Raises ValueError when there is none."""
    connect(found.address, local=found.local)
    import ray

    try:
        return ray.get_actor(CONTROLLER_NAME, namespace=found.name)
    except ValueError:
        raise _no_answer(found, "there is none") from None


def ask(found: FoundRun, method: str, *arguments: Any, **named: Any) -> Any:
    """The answer of its controller. Raises ValueError when it has none, or refuses what it is asked."""
    controller = controller_of(found)
    import ray.exceptions

    reference = getattr(controller, method).remote(*arguments, **named)
    try:
        return ray.get(reference, timeout=ANSWER_TIMEOUT_S)
    except ray.exceptions.RayTaskError as error:
        raise ValueError(str(error.cause) or repr(error.cause)) from None
    except ray.exceptions.RayError as error:  # a GetTimeoutError too
        raise _no_answer(found, type(error).__name__) from None


def _no_answer(found: FoundRun, why: str) -> ValueError:
    again = "--resume " + str(found.run_dir or "RUN_DIR")
    where = f"; its numbers are in {found.run_dir}/metrics.jsonl" if found.run_dir else ""
    return ValueError(
        f"no controller answers for {found.label} at {found.address} ({why}){where}; if its command is gone, start that "
        f"again with {again}"
    )


def _only_one(names: Sequence[str], where: str) -> str:
    if not names:
        raise ValueError(
            f"no run {where} is alive: start one with bonfire train, or say which is meant: bonfire COMMAND RUN_DIR, "
            "or NAME --address HOST:PORT"
        )
    if len(names) > 1:
        raise ValueError(f"{len(names)} runs {where} are alive{_listed(': ', names)}; name one")
    return names[0]


def _listed(prefix: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    return prefix + ", ".join(names[:SHOWN_NAMES]) + (", ..." if len(names) > SHOWN_NAMES else "")

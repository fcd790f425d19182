"""Which run a command means.

A run is named by its directory on this machine, or by the last part of that directory on a cluster: there
every run's controller is a named actor in a namespace of the run's name. One that has none at the moment is known
by its job.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.jobs import ray_jobs
from cluster.jobs.joining import dashboard_of, names_on
from cluster.run_directory.record import RUN_FILE, SETTINGS_FILE
from cluster.run_directory.run_file import is_driven_elsewhere, is_driven_here, read_run_file

RUNS = Path("runs")
SHOWN_NAMES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRun:
    """A run that a command means; `pid` is known of one whose directory is on this machine."""

    name: str
    run_dir: Path | None
    address: str
    """Of its Ray cluster; empty while it has none."""
    local: bool
    """Whether that cluster is its own."""
    stage: str
    """That of its run.json; of one found by its job the state of that, empty of one found by its controller."""
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

    `address` is a Ray cluster's HOST:PORT: a name is one there, whatever directories this machine has. Raises
    ValueError, in one line, when there is none or more than one.
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
        return _only_one(runs_alive(RUNS), f"under {RUNS}/", _newest(RUNS))
    if run is None:
        return _only_one(runs_on(address), on(address), "")
    names = names_on(address)
    if run in names:
        return _of_cluster(run, address)
    submitted = _jobs_on(address)
    job = ray_jobs.find_job(submitted or [], run)
    if job is None:
        unseen = (
            "; one without a controller would not be seen: no dashboard answers" if submitted is None else ""
        )
        alive = [found.name for found in _without_controller(submitted or [], names, address)]
        raise ValueError(
            f"no run {run!r} is alive {on(address)}{_listed(', but ', sorted([*names, *alive]))}{unseen}"
        )
    name = ray_jobs.run_of(job) or run
    if name in names:
        return _of_cluster(name, address)
    if job.status.is_terminal():
        raise ValueError(
            f"no run {run!r} is alive {on(address)}: job {job.submission_id} is {job.status}; its log: "
            f"bonfire logs {run} --address {ray_jobs.asked_at(address)}"
        )
    return _of_cluster(name, address, job)


def runs_on(address: str) -> list[FoundRun]:
    """Runs of the cluster at HOST:PORT: those that train, then those whose jobs have no controller at the moment.

    The latter only where its dashboard is in reach. Raises ValueError where the cluster is not.
    """
    names = names_on(address)
    training = [_of_cluster(name, address) for name in names]
    return [*training, *_without_controller(_jobs_on(address) or [], names, address)]


def _without_controller(submitted: Sequence[Any], names: Sequence[str], address: str) -> list[FoundRun]:
    """Runs that a living job drives, of those that are not in `names`."""
    by_name = {ray_jobs.run_of(job): job for job in submitted if not job.status.is_terminal()}
    return [_of_cluster(name, address, by_name[name]) for name in by_name if name and name not in names]


def _jobs_on(address: str) -> list[Any] | None:
    """The cluster's jobs as `jobs.list_jobs`; None where it has no dashboard that this machine reaches."""
    dashboard = dashboard_of(address)
    if dashboard is None:
        return None
    try:
        return ray_jobs.list_jobs(ray_jobs.connect(dashboard), address)
    except ValueError:  # it may listen on another machine's 127.0.0.1
        return None


def _of_cluster(name: str, address: str, job: Any = None) -> FoundRun:
    """A run that has a controller there, or else the job that drives it."""
    return FoundRun(
        name=name,
        run_dir=None,
        address=address,
        local=False,
        stage=str(job.status) if job else "",
        pid=None,
        job=str(job.submission_id) if job else None,
        stage_since=(job.start_time or 0) / 1e3 if job else 0.0,
    )


def on(address: str) -> str:
    """Where a message says that a run is looked for."""
    return "on this cluster" if address == "auto" else f"on {address}"


def local_directory(run: str, address: str | None) -> Path | None:
    """The directory of a run of this machine; None when there is none.

    By its path or, without the address of a cluster, by its name under runs/.
    """
    if address is not None and Path(run).name == run:
        return None
    return next((path for path in (Path(run), RUNS / run) if (path / RUN_FILE).is_file()), None)


def of_directory(run_dir: Path) -> FoundRun:
    """The run in a directory. Raises ValueError when it is over, or the directory is none of a run."""
    about = read_run_file(run_dir)
    driven_here = is_driven_here(about)
    if about.get("stage") == "ended" or (about["local"] and not driven_here):
        raise ValueError(f"the run in {run_dir} has ended {_how_far(run_dir)}")
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


def _how_far(run_dir: Path) -> str:
    """What a message says of a run that is over: how many steps it has, and what to do next."""
    settings, metrics = run_dir / SETTINGS_FILE, run_dir / "metrics.jsonl"
    planned = tomllib.loads(settings.read_text()) if settings.exists() else {}
    steps = planned.get("train", {}).get("steps")
    done = len(metrics.read_text(errors="replace").splitlines()) if metrics.exists() else 0
    of_steps = f"after step {done:,}" + ("" if steps is None else f" of {steps:,}")
    if done == steps and ("evaluation" not in planned or (run_dir / "report.json").exists()):
        return f"{of_steps}; look at it with: bonfire view {run_dir}"
    return f"{of_steps}; go on with: bonfire train --resume {run_dir}"


def runs_alive(runs: Path) -> list[FoundRun]:
    """Runs whose driver is a living process of this machine, the one started last first."""
    return [of_directory(path) for path, about in _by_start(runs) if is_driven_here(about)]


def _by_start(runs: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Run directories and their facts, the one started last first."""
    abouts = [(path.parent, read_run_file(path.parent)) for path in runs.glob(f"*/{RUN_FILE}")]
    return sorted(abouts, key=lambda found: found[1].get("started", 0.0), reverse=True)


def _newest(runs: Path) -> str:
    """What to say of the newest run directory where none is alive here; empty without any."""
    every = _by_start(runs)
    if not every:
        return ""
    path, about = every[0]
    if is_driven_elsewhere(about):
        return f"; the newest, {path}, is driven on {about['host']}: bonfire status {path}"
    return f"; the newest, {path}, has ended: its log: bonfire logs {path}"


def _only_one(alive: Sequence[FoundRun], where: str, newest: str) -> FoundRun:
    if not alive:
        raise ValueError(
            f"no run {where} is alive{newest}; start one with bonfire train, or say which is meant: "
            "bonfire COMMAND RUN_DIR, or NAME --address HOST:PORT"
        )
    if len(alive) > 1:
        names = [found.name for found in alive]
        raise ValueError(f"{len(alive)} runs {where} are alive{_listed(': ', names)}; name one")
    return alive[0]


def _listed(prefix: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    return prefix + ", ".join(names[:SHOWN_NAMES]) + (", ..." if len(names) > SHOWN_NAMES else "")

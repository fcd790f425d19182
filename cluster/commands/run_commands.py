"""The commands about a run that another process drives: submit, status, scale, stop, logs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
STOP_TIMEOUT_S = 600.0
ANSWER_TIMEOUT_S = 120.0
"""For a job that only asks, its start included."""


def _of_a_run(command: Callable[..., None]) -> Callable[..., None]:
    """The argument and option that say which run is meant."""
    command = click.option(
        "--address",
        metavar="ADDRESS",
        envvar="RAY_ADDRESS",
        help="The cluster on which RUN is a name: HOST:PORT on one of its nodes, http://HEAD:8265 elsewhere "
        "[default: $RAY_ADDRESS].",
    )(command)
    return click.argument("run", required=False)(command)


@click.command(context_settings=CONTEXT, short_help="Train as a job on a Ray cluster, and follow its log.")
@click.argument("config", type=click.Path(path_type=Path), required=False)
@click.argument("overrides", nargs=-1)
@click.option("--address", metavar="URL", required=True, help="The cluster's dashboard, http://HEAD:8265.")
@click.option(
    "--runs",
    type=click.Path(path_type=Path),
    metavar="DIR",
    envvar="BONFIRE_RUNS",
    help="Where all nodes see it: the run directory is DIR/NAME [default: $BONFIRE_RUNS].",
)
@click.option("--name", help="Of job and run [default: <config name>-<time>].")
@click.option(
    "--working-dir",
    type=click.Path(path_type=Path),
    default=".",
    show_default=True,
    help="Uploaded, and the job's working directory; what .gitignore and .rayignore name is left out.",
)
@click.option(
    "--resume",
    metavar="RUN_DIR|auto",
    help="Go on with a run; auto, with CONFIG: if the run directory holds one, else begin it.",
)
@click.option("--no-follow", is_flag=True, help="Return when the job is submitted.")
@click.option("--dry-run", is_flag=True, help="Print entrypoint and runtime environment, submit nothing.")
def submit(
    config: Path | None,
    overrides: tuple[str, ...],
    address: str,
    runs: Path | None,
    name: str | None,
    working_dir: Path,
    resume: str | None,
    no_follow: bool,
    dry_run: bool,
) -> None:
    """Train as CONFIG says, as a job on a Ray cluster, and follow its log.

    Ctrl-C ends the following, not the job. The exit code is 0 only if the job SUCCEEDED.

    \b
    Examples:
        bonfire submit my.toml --address http://head:8265 --runs /shared/runs
        bonfire submit my.toml train.steps=50 --address http://head:8265 --runs /shared/runs --name first
        bonfire submit --resume /shared/runs/first --address http://head:8265
        bonfire submit my.toml --resume auto --address http://head:8265 --runs /shared/runs --name first
    """
    from cluster.commands.resume import AUTO
    from cluster.jobs import ray_jobs
    from cluster.jobs import submit as submission

    if not ray_jobs.is_dashboard(address):
        raise ValueError(f"--address {address} is no dashboard: give the head's, as in http://HEAD:8265")
    if config is not None and "=" in str(config):
        config, overrides = None, (str(config), *overrides)
    planned = submission.plan(
        config,
        overrides,
        resume=None if resume in (None, AUTO) else Path(resume),
        auto=resume == AUTO,
        name=name,
        runs=runs,
        working_dir=working_dir,
        now=time.localtime(),
    )
    submission.submit(planned, address, dry_run=dry_run, wait=not no_follow)


@click.command(context_settings=CONTEXT, short_help="Show how a run is doing.")
@_of_a_run
@click.option("--json", "as_json", is_flag=True, help="All facts as one JSON object.")
@click.option("--all", "every", is_flag=True, help="A line for every run.")
def status(run: str | None, address: str | None, as_json: bool, every: bool) -> None:
    """Ask the running controller of RUN (default: the only one alive) how it is.

    RUN is a run directory, or its name; with --address the name of a run on that cluster.

    \b
    Examples:
        bonfire status
        bonfire status runs/countdown-20261121-101500 --json
        bonfire status --all --address http://head:8265
    """
    options = [*(["--json"] if as_json else []), *(["--all"] if every else [])]
    if _asked_there("status", run, address, options):
        return
    from cluster.jobs.status import show_all, show_status

    if every:
        show_all(address)
    else:
        show_status(run, address, as_json=as_json)


@click.command(context_settings=CONTEXT, short_help="Change how many workers a running run has.")
@_of_a_run
@click.option("--rollout", type=int, metavar="R", help="Rollout workers.")
@click.option("--verifier", type=int, metavar="V", help="Verifier workers.")
def scale(run: str | None, address: str | None, rollout: int | None, verifier: int | None) -> None:
    """Change how many workers a running RUN has; prints old and new.

    \b
    Examples:
        bonfire scale --rollout 4
        bonfire scale first --rollout 4 --verifier 8 --address http://head:8265
    """
    counts = (("--rollout", rollout), ("--verifier", verifier))
    options = [part for option, count in counts if count is not None for part in (option, str(count))]
    if _asked_there("scale", run, address, options):
        return
    from cluster.jobs.steer import scale as scale_run

    scale_run(run, address, rollout=rollout, verifier=verifier)


@click.command(context_settings=CONTEXT, short_help="Have a run write a checkpoint and end.")
@_of_a_run
@click.option("--now", is_flag=True, help="Do not ask the controller: end its job, or interrupt its process.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=STOP_TIMEOUT_S,
    show_default=True,
    help="Seconds to wait for its end.",
)
def stop(run: str | None, address: str | None, now: bool, timeout_s: float) -> None:
    """Have RUN finish its step, write a checkpoint and end; prints the command that goes on.

    With --now a job gets SIGTERM and 300 s, in which it does the same; a run of this machine ends at once, and
    keeps its newest checkpoint.

    \b
    Examples:
        bonfire stop
        bonfire stop first --address http://head:8265
    """
    from cluster.jobs import steer

    if now:
        steer.stop_now(run, address, timeout_s=timeout_s)
    elif not _asked_there(
        "stop", run, address, ["--timeout", f"{timeout_s:g}"], timeout_s=timeout_s + ANSWER_TIMEOUT_S
    ):
        steer.stop(run, address, timeout_s=timeout_s)


@click.command(context_settings=CONTEXT, short_help="Print the log of a run, or of its job.")
@_of_a_run
@click.option("--follow", "-f", is_flag=True, help="Go on until the run ends.")
def logs(run: str | None, address: str | None, follow: bool) -> None:
    """Print the log of RUN's job on a cluster, or of RUN's controller on this machine.

    \b
    Examples:
        bonfire logs --follow
        bonfire logs first --address http://head:8265
    """
    from cluster.jobs.steer import logs as show_logs

    show_logs(run, address, follow=follow)


def _asked_there(
    command: str,
    run: str | None,
    address: str | None,
    options: list[str],
    *,
    timeout_s: float = ANSWER_TIMEOUT_S,
) -> bool:
    """Whether a run behind a dashboard was meant: then a job on its cluster has done the command."""
    from cluster.jobs import ray_jobs
    from cluster.jobs.find_run import local_directory

    if not address or not ray_jobs.is_dashboard(address) or (run and local_directory(run, address)):
        return False
    names = [] if run is None else [ray_jobs.check_name(run, "RUN")]
    ray_jobs.run_there(address, [command, *names, *options], timeout_s)
    return True

"""The commands about what is on disk: view, report."""

from __future__ import annotations

import re
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cluster.commands.run_commands import CONTEXT

if TYPE_CHECKING:
    from cluster.view.library import Library

RUNS = Path("runs")


@click.command(context_settings=CONTEXT, short_help="Show runs and evaluations as pages in a browser.")
@click.argument("paths", nargs=-1, metavar="[RUN_DIR | RUN | EVAL_DIR]...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option(
    "--port", default=8300, show_default=True, type=click.IntRange(0, 65535), help="0: any free one."
)
@click.option(
    "--token",
    envvar="BONFIRE_VIEW_TOKEN",
    metavar="WORD",
    help="Needed to see anything [default: none on 127.0.0.1, elsewhere a new one; $BONFIRE_VIEW_TOKEN].",
)
@click.option("--no-cache", is_flag=True, help="Keep nothing in ~/.cache/bonfire/view.")
def view(paths: tuple[str, ...], host: str, port: int, token: str | None, no_cache: bool) -> None:
    """Show runs and evaluations as pages in a browser: curves, groups, problems, answers beside each other.

    Each path is a run, an evaluation or a directory of them; without one it is runs/. A page of a running run
    follows it. Nothing is written into a run's directory.

    \b
    Examples:
        bonfire view
        bonfire view runs/countdown-20261121-101500
        bonfire view runs/first runs/second runs/eval-20261121-120000
    """
    from cluster.view.library import Library, cache_directory

    library = Library(_directories(paths), None if no_cache else cache_directory())
    library.start_reading(num_runs=4)
    serve(library, host, port, token)


@click.command(context_settings=CONTEXT, short_help="Write one HTML file about a run, to be sent around.")
@click.argument("run_dir", metavar="RUN_DIR")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write [default: RUN_DIR/report.html].",
)
def report(run_dir: str, out: Path | None) -> None:
    """Write one HTML file about a run, to be sent around: curves, tables, its best and worst groups.

    It holds everything it shows and asks no other host for anything.

    \b
    Example:
        bonfire report runs/countdown-20261121-101500
    """
    from cluster.view.standalone import write_report

    [directory] = _directories((run_dir,))
    path = write_report(directory, out or directory / "report.html")
    click.echo(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")


def serve(library: Library, host: str, port: int, token: str | None) -> None:
    """Answer until Ctrl-C. Raises ValueError where the address cannot be listened at."""
    import socket

    import uvicorn

    from cluster.view.server import is_loopback, make_app

    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(24)
    if token is not None and not re.fullmatch(r"[\w.~-]+", token, re.ASCII):
        raise ValueError(
            "--token may have letters, digits and . _ ~ - alone, since it is part of an address: choose another"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)  # from here on a browser that is quicker than uvicorn waits, and is not refused
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"--host {host} --port {port} cannot be listened at ({error}): give another --port, or 0 for any"
        ) from None
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}/" + (f"?token={token}" if token else "")
    click.echo(f"{address}  (Ctrl-C ends it)")
    sys.stdout.flush()
    config = uvicorn.Config(make_app(library, token), log_level="error", access_log=False, lifespan="off")
    uvicorn.Server(config).run(sockets=[listener])


def _directories(paths: tuple[str, ...]) -> list[Path]:
    """Of paths and of names under runs/. Raises ValueError for what is neither."""
    found = []
    for path in paths or (str(RUNS),):
        place = next((place for place in (Path(path), RUNS / path) if place.is_dir()), None)
        if place is None and not paths:
            raise ValueError(
                f"there is no directory {RUNS} here: give a run's or an evaluation's, or change to where it is"
            )
        if place is None:
            raise ValueError(
                f"there is no directory {path}, nor {RUNS / path}: give a run's, an evaluation's, or one of several"
            )
        found.append(place)
    return found

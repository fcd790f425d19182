"""Start a Ray cluster for this process alone, or join one that is there."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cluster.config.schema import RunConfig
from cluster.fleet.capacity import check_private_has
from cluster.fleet.needs import STORED_VERSIONS, cpus_needed, published_bytes
from cluster.fleet.nodes import HUNG_WORKER_SETTINGS
from cluster.fleet.watcher import watch_this_process

CONTROLLER_NAME = "bonfire-controller"
"""Of each run's controller on its cluster, in a namespace of the run's name."""
CONNECT_TIMEOUT_S = 5.0
OBJECT_STORE_BYTES = 512 << 20

logger = logging.getLogger(__name__)


def start_ray(
    config: RunConfig, *, address: str | None = None, namespace: str, publishes: bool = True
) -> str:
    """Join the cluster at `address`, or start one for this process alone; returns its address.

    The private cluster listens on 127.0.0.1, asks for a token, and dies with this process. `publishes`:
    there is a learner, whose weights will go through its object store. Raises ValueError where this machine can
    never have what the workers reserve.
    """
    set_ray_environment(local=address is None)
    import ray

    common: dict[str, Any] = {
        "namespace": namespace,
        "logging_level": logging.ERROR,
        "log_to_driver": False,
        "configure_logging": True,
    }
    with _without_rays_handler():
        if address:
            try:
                check_reachable(address)
                context = ray.init(address=address, **common)
            except (ConnectionError, ray.exceptions.RayError) as error:
                raise RuntimeError(
                    f"--address {address}: no Ray cluster lets us in ({why_not_joined(error)}): check the address, that this is a "
                    "node of it (elsewhere use `bonfire submit`), and that RAY_AUTH_TOKEN_PATH names the cluster's token"
                ) from error
        else:
            check_private_has(config, trains=publishes)
            watch_this_process()
            of_weights = int(STORED_VERSIONS * published_bytes(config)) if publishes else 0
            store_bytes = max(OBJECT_STORE_BYTES, of_weights)
            num_cpus = max(os.cpu_count() or 1, int(cpus_needed(config) + 0.999))
            with _daemons_out_of_our_process_group():
                context = _start_private(
                    lambda: ray.init(
                        address="local",
                        num_cpus=num_cpus,
                        include_dashboard=False,
                        object_store_memory=store_bytes,
                        **common,
                    ),
                    ray.shutdown,
                )
    _log_what_raylets_print()
    return context.address_info["address"]  # type: ignore[attr-defined]


@contextmanager
def _without_rays_handler() -> Iterator[None]:
    """The caller's handler of SIGTERM stays, where Ray would put one that raises SystemExit in places that swallow it.

    By a private name of Ray 2.60: there is no setting for it.
    """
    from ray._private import utils

    set_handler = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = set_handler
        # Once more, for Ray's C++ side has put one of its own below Python's.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


@contextmanager
def _daemons_out_of_our_process_group() -> Iterator[None]:
    """Ray's processes started meanwhile are not reached by a signal to the group of ours, which `timeout` and others send.

    That signal is ours to answer, by a last checkpoint, for which they are needed; and they end with us.
    By a private name of Ray 2.60, which its daemons call between fork and exec: there is no setting for it.
    """
    from ray._private import utils

    end_with_parent = utils.set_kill_on_parent_death_linux

    def leave_and_end_with_parent() -> None:
        os.setpgid(0, 0)
        end_with_parent()

    utils.set_kill_on_parent_death_linux = leave_and_end_with_parent
    try:
        yield
    finally:
        utils.set_kill_on_parent_death_linux = end_with_parent


def _log_what_raylets_print() -> None:
    """Ray prints a paragraph for every process that dies, where the run says it in a line: to our log instead.

    By a private name of Ray 2.60: there is no setting for it.
    """
    from ray._private import worker

    def log(data: dict[str, Any], ignore_prefix: bool) -> None:
        for line in data["lines"]:
            logger.info("%s: %s", data["pid"], line)

    worker.print_to_stdstream = log


def _start_private(start: Callable[[], Any], clean_up: Callable[[], None]) -> Any:
    """What `start` returns, on a machine so busy that Ray gives up on its first try too.

    Ray waits a fixed 30 s for its processes and then raises a bare Exception. Raises RuntimeError.
    """
    try:
        return start()
    except Exception:  # noqa: BLE001  Ray raises nothing narrower
        clean_up()
    try:
        return start()
    except Exception as error:
        clean_up()
        raise RuntimeError(
            f"Ray does not start on this machine, tried twice ({str(error).splitlines()[0]}): "
            "end other work and try again, or join a running cluster with --address"
        ) from error


def set_ray_environment(*, local: bool) -> None:
    """Token auth on both sides, quiet workers; must run before Ray is imported.

    `local`: the cluster is, or will be, a private one on the loopback interface. A cluster of others may
    have no token: then none is asked of the user. Raises ValueError for a token's file that is not there.
    """
    if local:
        # Ray's own switch that keeps a cluster on 127.0.0.1; it was made for laptops.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        for name, value in HUNG_WORKER_SETTINGS.items():
            os.environ.setdefault(name, value)
    if local or _token_at_hand():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    token_path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    is_asked = os.environ.get("RAY_AUTH_MODE") == "token" and not os.environ.get("RAY_AUTH_TOKEN")
    if token_path and is_asked and not Path(token_path).is_file():
        raise ValueError(
            f"RAY_AUTH_TOKEN_PATH = {token_path!r} is no file: set it to the one that holds the cluster's token, or unset it"
        )


def check_reachable(address: str) -> None:
    """Raises ConnectionError at once where nobody listens at HOST:PORT, or our token is not the cluster's.

    Ray itself tries for most of a minute. By a private class of Ray 2.60; all else is for `ray.init` to say.
    """
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError, RayError

    host, _, port = address.rpartition(":")
    if not port.isdigit():  # auto
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ConnectionError(error.strerror or str(error)) from error
    with quiet_stderr(), suppress(RayError):
        try:
            GcsClient(address=address)
        except AuthenticationError as error:
            raise ConnectionError("its token is another") from error


def why_not_joined(error: Exception) -> str:
    """In a few words."""
    return str(error).splitlines()[0] if isinstance(error, ConnectionError) else type(error).__name__


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """What Ray's C++ side writes of failed attempts goes nowhere, for what came of them is raised.

    Other threads are as quiet meanwhile. Not for `ray.init`: there Ray may write a line and end the process.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


def _token_at_hand() -> bool:
    named = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return named or (Path.home() / ".ray" / "auth_token").is_file()

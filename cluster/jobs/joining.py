"""The Ray cluster that a command joins, to ask it: what trains there, and where its dashboard is."""

from __future__ import annotations

import logging
import socket
from contextlib import suppress

from cluster.fleet.ray_cluster import CONTROLLER_NAME, check_reachable, set_ray_environment, why_not_joined


def connect(address: str, *, local: bool) -> None:
    """Join the cluster at HOST:PORT as a driver that only asks. Raises ValueError, in one line."""
    set_ray_environment(local=local)
    import ray

    if ray.is_initialized():
        return
    try:
        check_reachable(address)
        ray.init(
            address=address, namespace="bonfire-command", logging_level=logging.CRITICAL, log_to_driver=False
        )
    except (ConnectionError, ray.exceptions.RayError, RuntimeError) as error:
        raise ValueError(
            f"no Ray cluster lets us in at {address} ({why_not_joined(error)}): check the address, that this is a "
            "node of it (elsewhere give --address http://HEAD:8265), and RAY_AUTH_TOKEN_PATH"
        ) from None


def joined_address() -> str:
    """HOST:PORT of the cluster that was joined, as a run's own `address` has it."""
    import ray

    return str(ray.get_runtime_context().gcs_address)


def disconnect() -> None:
    """Leave the cluster, to join another."""
    import ray

    ray.shutdown()


def names_on(address: str) -> list[str]:
    """Names of the runs that train on a cluster, in their order."""
    connect(address, local=False)
    import ray

    try:
        actors = ray.util.list_named_actors(all_namespaces=True)
    except ray.exceptions.RayError as error:
        raise ValueError(
            f"Ray's head at {address} does not answer ({type(error).__name__}): ask again"
        ) from None
    return sorted(actor["namespace"] for actor in actors if actor["name"] == CONTROLLER_NAME)


def dashboard_of(address: str) -> str | None:
    """Where a cluster says that its dashboard listens, http://HEAD:8265; None where it has none, or one on the loopback
    interface of another machine: at that address something else may answer here, the dashboard of another cluster too.

    By a private function of Ray 2.60: what asks for jobs waits 40 s for a dashboard that is not there.
    """
    connect(address, local=False)
    from ray._private.worker import get_dashboard_url

    url = get_dashboard_url()
    if not url or (url.startswith(("127.", "localhost:")) and not _is_on_head()):
        return None
    return f"http://{url}"


def _is_on_head() -> bool:
    """Whether this machine is that of the head of the cluster that was joined."""
    import ray

    head = joined_address().rpartition(":")[0]
    with suppress(OSError):
        head = socket.gethostbyname(head)
    return head == ray.util.get_node_ip_address() or head.startswith("127.")

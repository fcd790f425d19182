"""Whether this machine, as a cluster of its own, can ever have what a run asks for. A cluster that is joined may grow."""

from __future__ import annotations

from actors.config import RolloutConfig
from cluster.config.schema import RunConfig
from cluster.fleet.gpu_memory import num_gpus_for
from cluster.fleet.nodes import bundle
from learner.config import LearnerConfig
from verifiers.config import VerifierConfig

GPU = "GPU"
OWN_CPUS = "CPU"
"""A private cluster has as many as are asked for: workers share what there is."""


def check_private_has(config: RunConfig, *, trains: bool = True) -> None:
    """Raises ValueError, in one line, for a resource that the first workers reserve and this machine has not.

    `trains`: with the learner. Asks Ray only where there is something to ask.
    """
    wanted = _wanted(config, trains=trains)
    if not wanted:
        return
    here = resources_here()
    _check_shares_have_places(config, here.get(GPU, 0.0), trains=trains)
    for name, by_role in wanted.items():
        needed, there = sum(by_role.values()), here.get(name, 0.0)
        if needed > there:
            what = GPU if name == GPU else repr(name)
            settings = ", ".join(
                f"{role}.num_gpus" if name == GPU else f"{role}.resources" for role in by_role
            )
            parts = ", ".join(f"{role} {amount:g}" for role, amount in by_role.items())
            remedy = "set that to 0 to compute on the CPU" if name == GPU else "remove it"
            if there:
                remedy = "lower the numbers of workers or what each reserves"
            raise ValueError(
                f"{settings}: the workers reserve {needed:g} {what} ({parts}), and a Ray cluster of this machine alone has "
                f"{there:g}: {remedy}, or join a cluster that has more with --address HOST:PORT (for a plan, --dry-run, it need not be there)"
            )


def _check_shares_have_places(config: RunConfig, num_here: float, *, trains: bool) -> None:
    """Shares that add up to no more than there is may still fit on no GPU: a worker's is of one."""
    by_role = {
        role: [bundle(section).get(GPU, 0.0)] * workers
        for role, workers, section in _roles(config, trains=trains)
    }
    wanted = [share for of_role in by_role.values() for share in of_role]
    if sum(wanted) <= num_here < num_gpus_for(wanted):
        parts = ", ".join(
            f"{len(of_role)} x {role} {of_role[0]:g}" for role, of_role in by_role.items() if any(of_role)
        )
        raise ValueError(
            f"the workers' shares ({parts}) need {num_gpus_for(wanted)} GPUs, since each is of one GPU, and {num_here:g} are here: "
            f"lower one of {', '.join(f'{role}.num_gpus' for role, of_role in by_role.items() if any(of_role))} until they fit"
        )


def resources_here() -> dict[str, float]:
    """What Ray would offer of this machine, by its own detection; starts nothing.

    By a private class of Ray 2.60: the public functions ask a cluster that is up.
    """
    from ray._private.resource_and_label_spec import ResourceAndLabelSpec

    spec = ResourceAndLabelSpec(num_cpus=1, memory=1 << 30, object_store_memory=1 << 28)
    return dict(spec.resolve(is_head=True, node_ip_address="127.0.0.1").to_resource_dict())


def _wanted(config: RunConfig, *, trains: bool) -> dict[str, dict[str, float]]:
    """Resource to role to the amount that its workers reserve together at the start."""
    wanted: dict[str, dict[str, float]] = {}
    for role, workers, section in _roles(config, trains=trains):
        for name, amount in bundle(section).items():
            if name != OWN_CPUS:
                wanted.setdefault(name, {})[role] = workers * amount
    return wanted


def _roles(
    config: RunConfig, *, trains: bool
) -> list[tuple[str, int, RolloutConfig | VerifierConfig | LearnerConfig]]:
    """Name, number of workers at the start, settings of each."""
    return [
        ("rollout", config.rollout.workers, config.rollout),
        ("verifier", config.verifier.workers, config.verifier),
        *([("learner", config.learner.ranks, config.learner)] if trains else []),
    ]

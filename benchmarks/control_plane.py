"""Groups a second that the controller's bookkeeping can take, with simulated workers.

    python -m benchmarks.control_plane [--workers 16 64 256 1024 4096]

Real are the ledger, the admission rules and the rollout fleet that gives out leases; a worker is a handle whose actor
takes messages and does nothing. In simulated time every worker finishes its groups in random order. Sixteen leases a
worker, and as many groups a step as keep all of them busy at max_staleness = 1. Seconds are those of this process.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from types import SimpleNamespace
from typing import Any

from actors.config import RolloutConfig
from benchmarks.demo_run import machine
from cluster.fleet.handles import RolloutHandle
from cluster.fleet.rollouts import RolloutFleet
from cluster.fleet.slots import Slot
from cluster.leasing import admission
from cluster.leasing.ledger import Ledger
from cluster.leasing.work import Work

LEASES_PER_WORKER = 16
SAMPLES = 8
MAX_STALENESS = 1
MIN_GROUPS = 20_000


class Simulation:
    """A controller around workers that finish one group after the other, in random order."""

    def __init__(self, num_workers: int, num_groups: int) -> None:
        self._rng = random.Random(0)
        self._groups_per_step = num_workers * LEASES_PER_WORKER // (MAX_STALENESS + 1)
        self.version = 0
        self.ledger = Ledger(num_problems=10_000, num_groups=num_groups, seed=0)
        self._sampling: list[tuple[str, int]] = []
        self.fleet = RolloutFleet(
            config=RolloutConfig(max_num_seqs=LEASES_PER_WORKER * SAMPLES // 2, samples_per_prompt=SAMPLES),
            model="",
            works=[
                Work(
                    ledger=self.ledger,
                    num_samples=SAMPLES,
                    may_lease=self._may_lease,
                    make_lease=lambda group: group,  # type: ignore[arg-type, return-value]
                )
            ],
            synchronous=False,
            update_timeout_s=1.0,
            on_groups=lambda groups: None,
            on_lost=lambda role, error: None,
        )
        for number in range(num_workers):
            name = f"rollout-{number}"
            actor = SimpleNamespace(submit=SimpleNamespace(remote=self._receiver(name)))
            handle = RolloutHandle(
                name=name, actor=actor, slot=Slot(is_initial=True), serving=True, version=0
            )
            self.fleet.workers[name] = handle
        self._announce()
        self.fleet.top_up()

    def finish_a_group(self) -> None:
        """One worker's group comes in and is judged; a batch is trained as soon as there is one."""
        place = self._rng.randrange(len(self._sampling))
        self._sampling[place], self._sampling[-1] = self._sampling[-1], self._sampling[place]
        name, group = self._sampling.pop()
        assert self.ledger.receive(group, name) and self.ledger.commit(group)
        worker = self.fleet.workers[name]
        facts: Any = SimpleNamespace(
            num_leased=worker.num_leased,
            num_unfinished=SAMPLES * self.ledger.num_leases_of(name),
            capacity=LEASES_PER_WORKER * SAMPLES // 2,
        )
        worker.facts = facts
        self.fleet.top_up(worker)
        bounds = {"groups_per_step": self._groups_per_step, "max_staleness": MAX_STALENESS}
        assert not admission.too_stale(self.ledger, version=self.version, **bounds)
        batch = admission.cut_batch(self.ledger, version=self.version, **bounds)
        if batch is not None:
            self.ledger.train(batch)
            self.version += 1
            for worker in self.fleet.workers.values():
                worker.version = self.version
            self._announce()
            self.fleet.top_up()

    @property
    def is_over(self) -> bool:
        return not self._sampling

    def _announce(self) -> None:
        published: Any = SimpleNamespace(version=self.version)
        self.fleet.announce(published)

    def _may_lease(self, served_version: int) -> bool:
        return admission.may_lease(
            next_version=self.version,
            served_version=served_version,
            outstanding=self.ledger.num_outstanding,
            groups_per_step=self._groups_per_step,
            max_staleness=MAX_STALENESS,
        )

    def _receiver(self, name: str) -> Any:
        def receive(leases: list[int]) -> None:
            self._sampling += [(name, group) for group in leases]

        return receive


def measure(num_workers: int) -> dict[str, Any]:
    num_groups = max(MIN_GROUPS, 4 * num_workers * LEASES_PER_WORKER)
    simulation = Simulation(num_workers, num_groups)
    started = time.perf_counter()
    num_finished = 0
    while not simulation.is_over:
        simulation.finish_a_group()
        num_finished += 1
    seconds = time.perf_counter() - started
    return {
        "workers": num_workers,
        "groups": num_finished,
        "steps": simulation.version,
        "groups_per_s": round(num_finished / seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[16, 64, 256, 1024, 4096])
    found = []
    for num_workers in parser.parse_args().workers:
        found.append(measure(num_workers))
        print(found[-1], file=sys.stderr, flush=True)
    print(json.dumps({"machine": machine(), "leases_per_worker": LEASES_PER_WORKER, "rows": found}, indent=1))


if __name__ == "__main__":
    main()

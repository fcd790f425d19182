"""Groups a second that the controller's bookkeeping can take, with simulated workers.

    python -m benchmarks.control_plane [--workers 16 64 256 1024 4096] [--samples 8] [--leases 16]

Real are the ledger, the admission rules and the rollout fleet that gives out leases; a worker is a handle whose actor
takes messages and does nothing. In simulated time every worker finishes what it was leased in random order. Groups for
so many leases a worker, and as many groups a step as keep all of them busy at max_staleness = 1. Large groups on engines with
room for few of them (`--samples 64 --leases 3`) are divided. Seconds are those of this process.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any

from actors.config import RolloutConfig
from actors.types import Piece
from benchmarks.demo_run import machine
from cluster.fleet.handles import RolloutHandle
from cluster.fleet.rollouts import RolloutFleet
from cluster.fleet.slots import Slot
from cluster.leasing import admission
from cluster.leasing.ledger import Ledger
from cluster.leasing.work import Work

MAX_STALENESS = 1
MIN_GROUPS = 20_000


class Simulation:
    """A controller around workers that finish one group after the other, in random order."""

    def __init__(self, num_workers: int, num_groups: int, samples: int, leases: int) -> None:
        self._engine_size = leases * samples // 2
        self._rng = random.Random(0)
        self._groups_per_step = num_workers * leases // (MAX_STALENESS + 1)
        self.version = 0
        self.ledger = Ledger(num_problems=10_000, num_groups=num_groups, seed=0, num_samples=samples)
        self._sampling: list[tuple[str, Piece]] = []
        self._num_finished: Counter[str] = Counter()
        self.num_pieces = 0
        self.fleet = RolloutFleet(
            config=RolloutConfig(max_num_seqs=self._engine_size, samples_per_prompt=samples),
            model="",
            works=[
                Work(
                    ledger=self.ledger,
                    num_admitted=self._num_admitted,
                    make_lease=lambda piece: piece,  # type: ignore[arg-type, return-value]
                )
            ],
            synchronous=False,
            update_timeout_s=1.0,
            on_pieces=lambda worker, pieces: None,
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

    def finish_a_piece(self) -> None:
        """A worker's piece comes in; a group that is whole is judged, a batch is trained as soon as there is one."""
        place = self._rng.randrange(len(self._sampling))
        self._sampling[place], self._sampling[-1] = self._sampling[-1], self._sampling[place]
        name, piece = self._sampling.pop()
        assert self.ledger.receive(piece, name)
        worker = self.fleet.workers[name]
        self._num_finished[name] += piece.num_samples
        facts: Any = SimpleNamespace(
            num_leased=worker.num_leased,
            num_unfinished=worker.num_leased - self._num_finished[name],
            capacity=self._engine_size,
        )
        worker.facts = facts
        self.fleet.top_up(worker)
        if not self.ledger.is_received(piece.group):
            return
        assert self.ledger.commit(piece.group)
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

    def _num_admitted(self, served_version: int) -> int:
        return admission.num_admitted(
            next_version=self.version,
            served_version=served_version,
            outstanding=self.ledger.num_outstanding,
            groups_per_step=self._groups_per_step,
            max_staleness=MAX_STALENESS,
        )

    def _receiver(self, name: str) -> Any:
        def receive(leases: list[Piece]) -> None:
            self._sampling += [(name, piece) for piece in leases]
            self.num_pieces += len(leases)

        return receive


def measure(num_workers: int, samples: int, leases: int) -> dict[str, Any]:
    num_groups = max(MIN_GROUPS, 4 * num_workers * leases)
    simulation = Simulation(num_workers, num_groups, samples, leases)
    started = time.perf_counter()
    while not simulation.is_over:
        simulation.finish_a_piece()
    seconds = time.perf_counter() - started
    return {
        "workers": num_workers,
        "groups": num_groups,
        "pieces": simulation.num_pieces,
        "steps": simulation.version,
        "groups_per_s": round(num_groups / seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[16, 64, 256, 1024, 4096])
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--leases", type=int, default=16)
    arguments = parser.parse_args()
    found = []
    for num_workers in arguments.workers:
        found.append(measure(num_workers, arguments.samples, arguments.leases))
        print(found[-1], file=sys.stderr, flush=True)
    print(json.dumps({"machine": machine(), **vars(arguments), "rows": found}, indent=1))


if __name__ == "__main__":
    main()

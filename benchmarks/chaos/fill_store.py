"""Fills a node's object store and holds it: `python -m benchmarks.chaos.fill_store ADDRESS NODE_ID MIB`."""

from __future__ import annotations

import sys
import time

BLOCK_MIB = 10
FILLED = "the store is filled"
"""Printed when it is."""


def main() -> None:
    address, node_id, mib = sys.argv[1:]
    from cluster.jobs.joining import connect

    connect(address, local=False)
    import numpy as np
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    class Holder:
        def __init__(self) -> None:
            self.held: list[ray.ObjectRef] = []

        def hold(self) -> None:
            self.held.append(ray.put(np.ones(BLOCK_MIB << 20, np.uint8)))

    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    holder = ray.remote(Holder).options(num_cpus=0, scheduling_strategy=there).remote()
    for _ in range(int(mib) // BLOCK_MIB):
        ray.get(holder.hold.remote())  # type: ignore[attr-defined]
    print(FILLED, flush=True)
    time.sleep(3600)


if __name__ == "__main__":
    main()

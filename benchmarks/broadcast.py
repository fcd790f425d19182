"""Seconds to bring a version of the weights to 1, 2 and 4 rollout workers on one node and on three.

    .venv/bin/python -m benchmarks.broadcast > benchmarks/results/broadcast.json

Counted is `RolloutFleet.broadcast`: from a version in the object store of the learner's node to the confirmation of the last
engine, fingerprint compared. The nodes are Ray's own, with an object store each, all on this machine: what they send each
other is copied through its loopback interface. The engines sample nothing meanwhile. With three nodes none of them is
the learner's; `all at once` lets every node pull at the same time instead of in turns. About six minutes on two cores.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from actors.config import RolloutConfig
from actors.types import Lease, Piece
from actors.weights.fingerprint import param_fingerprint
from actors.weights.manifest import WeightManifest, views
from benchmarks.demo_run import machine
from cluster.fleet import ray_cluster, rollouts
from cluster.fleet.broadcast import Published, Turns
from cluster.leasing.ledger import Ledger
from cluster.leasing.work import Work
from learner.model.names import StoredLayout
from learner.model.publish import make_manifest, pack
from learner.sft import build_tokenizer

SIZES: dict[str, dict[str, Any]] = {
    "1 MB": {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4},
    "256 MB": {
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 9,
        "num_attention_heads": 12,
    },
}
STORE_BYTES = 1 << 30
WARM_UP, ROUNDS = 2, 9
STEPS = {1: 1, 2: 1, 4: 2}
"""Number of workers -> how many of them are on the newest of three nodes."""
PATIENCE_S = 300.0


def no_lease(piece: Piece) -> Lease:
    raise AssertionError(f"{piece}: nothing is sampled here")


class Fleet:
    """Rollout workers of a model, without a run around them."""

    def __init__(self, model: Path) -> None:
        network = LlamaForCausalLM.from_pretrained(model, dtype=torch.float32)
        layout = StoredLayout(network)
        self._manifest: WeightManifest = make_manifest(layout, "float32")
        self._buckets = list(pack(layout, dict(network.named_parameters()), self._manifest))
        self._version = 0
        self._fleet = rollouts.RolloutFleet(
            config=RolloutConfig(
                num_cpus=0, resources={"rollout": 1}, max_model_len=64, max_tokens=8, kv_cache_mib=16
            ),
            model=str(model),
            works=[
                Work(
                    ledger=Ledger(num_problems=1, num_groups=0, seed=0),
                    num_admitted=lambda version: 0,
                    make_lease=no_lease,
                )
            ],
            synchronous=False,
            update_timeout_s=PATIENCE_S,
            on_pieces=lambda worker, pieces: None,
            on_lost=lambda role, error: print(error, file=sys.stderr),
        )
        self._fleet.announce(self._publish())
        self._running = self._fleet.start()

    def _publish(self) -> Published:
        import ray

        self._version += 1
        return Published(
            version=self._version,
            fingerprint=param_fingerprint(views(self._manifest, self._buckets)),
            manifest=self._manifest,
            buckets=[ray.put(bucket) for bucket in self._buckets],
            node_id=ray.get_runtime_context().get_node_id(),
        )

    async def grow(self, size: int) -> None:
        self._fleet.slots.resize(size)
        deadline_s = time.monotonic() + PATIENCE_S
        while len(self._fleet.serving) < size:
            assert time.monotonic() < deadline_s and not self._running.done()
            await asyncio.sleep(0.05)

    async def broadcast_s(self) -> list[float]:
        """Of `ROUNDS` versions, each a new object."""
        seconds = []
        for _ in range(WARM_UP + ROUNDS):
            published = self._publish()
            started = time.perf_counter()
            await self._fleet.broadcast(published)
            seconds.append(time.perf_counter() - started)
        return seconds[WARM_UP:]

    @property
    def num_nodes(self) -> int:
        return len({worker.node_id for worker in self._fleet.workers.values()})

    async def stop(self) -> None:
        self._running.cancel()
        await self._fleet.stop()


async def measure(model: Path, add_node: Callable[[int], None] | None) -> list[dict[str, Any]]:
    """A row for each number of workers; `add_node(capacity)` makes the node that the newest ones are on."""
    if add_node:
        add_node(STEPS[1])
    fleet = Fleet(model)
    rows = []
    try:
        for size, capacity in STEPS.items():
            if add_node and size > 1:
                add_node(capacity)
            await fleet.grow(size)
            seconds = {"seconds": await fleet.broadcast_s()}
            if add_node:
                with mock.patch.object(rollouts, "Turns", functools.partial(Turns, 0.0)):
                    seconds["seconds_all_at_once"] = await fleet.broadcast_s()
            medians = {
                name.replace("seconds", "median_s"): statistics.median(s) for name, s in seconds.items()
            }
            rows.append({"workers": size, "nodes": fleet.num_nodes, **medians, **seconds})
            print(
                {key: value for key, value in rows[-1].items() if not key.startswith("seconds")},
                file=sys.stderr,
            )
    finally:
        await fleet.stop()
    return rows


def on_nodes(model: Path, *, separate: bool) -> list[dict[str, Any]]:
    """With all workers beside the learner, or on nodes of their own."""
    import ray
    from ray.cluster_utils import Cluster

    head: dict[str, Any] = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    if not separate:
        head["resources"] = {"rollout": max(STEPS)}
    cluster = Cluster(initialize_head=True, head_node_args=head)

    def add_node(capacity: int) -> None:
        cluster.add_node(num_cpus=1, resources={"rollout": capacity}, object_store_memory=STORE_BYTES)

    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        return asyncio.run(measure(model, add_node if separate else None))
    finally:
        ray.shutdown()
        cluster.shutdown()


def in_own_process(model: Path, where: str) -> list[dict[str, Any]]:
    """Ray reads its settings when it is imported, which it is here."""
    command = [sys.executable, "-m", "benchmarks.broadcast", str(model), where]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    if len(sys.argv) == 3:
        print(json.dumps(on_nodes(Path(sys.argv[1]), separate=sys.argv[2] == "separate")))
        return
    result: dict[str, Any] = {
        "machine": machine(),
        "load_average_1min_before": os.getloadavg()[0],
    }
    with tempfile.TemporaryDirectory(prefix="bf", dir="/tmp") as directory:
        token = Path(directory, "token")
        token.write_text(secrets.token_hex(32))
        # Unix sockets want short paths.
        os.environ.update(RAY_TMPDIR=directory, RAY_AUTH_TOKEN_PATH=str(token))
        ray_cluster.set_ray_environment(local=True)
        tokenizer = build_tokenizer()
        for name, size in SIZES.items():
            model = Path(directory, "model", name.replace(" ", ""))
            torch.manual_seed(0)
            LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **size)).save_pretrained(model)
            tokenizer.save_pretrained(model)
            print(name, file=sys.stderr)
            result[name] = [row for where in ("beside", "separate") for row in in_own_process(model, where)]
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

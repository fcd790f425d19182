"""Faults of nodes, of the network between them, of Ray's head, and of disk and memory; generators as in worker_faults."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.chaos.cluster import HEAD
from benchmarks.chaos.fill_store import FILLED
from benchmarks.chaos.processes import NODE_VARIABLE, is_alive
from benchmarks.chaos.worker_faults import NOTICED, Act, Course, another_answers, back, succeeded, until
from benchmarks.chaos.world import NoVictimError, World
from cluster.run_directory.record import finished_checkpoints

SAMPLING_NODES = ("east", "west")
FILL_MIB = 300
"""Three times what a node's object store holds."""


def pause(world: World, low_s: float, high_s: float) -> Course:
    """Wait for a random time."""
    ends_s = time.monotonic() + world.random.uniform(low_s, high_s)
    return until(lambda: time.monotonic() > ends_s)


def raylet_killed(*nodes: str) -> Act:
    """Its node's workers end with it. Noticed when Ray no longer counts the node."""

    def act(world: World) -> Course:
        node, node_id = _choose_node(world, nodes)
        struck_at = world.best_step
        world.strike(_raylet(world, node), signal.SIGKILL)
        yield node
        yield from _given_up(world, node_id)
        yield from back(world, struck_at)

    return act


def raylet_stopped(world: World) -> Course:
    """A node that answers nothing, while its workers live on; later it runs again and learns that it is dead."""
    node, node_id = _choose_node(world, SAMPLING_NODES)
    struck_at = world.best_step
    pid = _raylet(world, node)
    world.strike(pid, signal.SIGSTOP)
    world.held.add(node)
    try:
        yield node
        yield from _given_up(world, node_id)
        yield from pause(world, 0, 5)
    finally:
        world.family.send(pid, signal.SIGCONT)
        world.held.discard(node)
    yield from back(world, struck_at)


def network_lost(world: World) -> Course:
    """No packet passes until some seconds after Ray has given the node up."""
    node, node_id = _choose_node(world, SAMPLING_NODES)
    struck_at = world.best_step
    with _cut_off(world, node):
        yield node
        yield from _given_up(world, node_id)
        yield from pause(world, 0, 5)
    yield from back(world, struck_at)


def network_interrupted(world: World) -> Course:
    """No packet passes for a second or two: not long enough to be given up."""
    node, _ = _choose_node(world, SAMPLING_NODES)
    struck_at = world.best_step
    with _cut_off(world, node):
        yield node
        yield from pause(world, 0.5, 2)
    yield from back(world, struck_at, steps=2)


def gcs_killed(world: World) -> Course:
    """Ray's global control service, and started again; its records are on disk."""
    struck_at = world.best_step
    if not world.is_whole or world.cluster.kill_gcs() is None:
        raise NoVictimError
    try:
        yield "gcs_server"
        yield from pause(world, 0.5, 5)
    finally:
        world.cluster.start_gcs()
    yield from back(world, struck_at, steps=3)


def head_lost(world: World) -> Course:
    """Everything on the head's machine at once, driver and controller included; `mend` makes a new cluster."""
    struck_at = world.best_step
    world.driver.kill()
    world.cluster.kill_head()
    yield HEAD
    yield from back(world, struck_at)


def store_filled(world: World) -> Course:
    """Another program fills a node's object store and holds it for three steps."""
    if not world.is_whole:
        raise NoVictimError
    node, node_id = _choose_node(world, tuple(world.nodes))
    log = world.driver.log.with_name(f"fill_store-{time.monotonic_ns()}.log")
    command = [
        sys.executable, "-m", "benchmarks.chaos.fill_store", world.cluster.address, node_id, str(FILL_MIB),
    ]  # fmt: skip
    environment = {**world.cluster.environment, NODE_VARIABLE: HEAD}
    program = world.family.spawn(command, environment=environment, log=log)
    struck_at = world.best_step
    try:
        yield node
        yield from until(lambda: program.poll() is not None or FILLED in log.read_text())
        struck_at = world.best_step
        yield from until(lambda: program.poll() is not None or world.step >= struck_at + 3)
    finally:
        program.kill()
        program.wait()
    yield from back(world, struck_at)


def disk_filled(world: World) -> Course:
    """The run's disk has no byte left until the run has ended; `mend` goes on with it."""
    if world.disk is None or not world.is_whole:
        raise NoVictimError
    struck_at = world.best_step
    filler = world.disk / "filler"
    controllers = world.family.find("controller")
    try:
        _fill(filler)
        yield str(world.disk)
        yield from until(lambda: not any(map(is_alive, controllers)))
        yield NOTICED
    finally:
        filler.unlink()
    yield from another_answers(world, controllers)
    yield from back(world, struck_at)


def checkpoint_damaged(world: World) -> Course:
    """The driver is killed, and of its newest checkpoint the model's file is cut in half."""
    if len(finished_checkpoints(world.driver.run_dir)) < 2:
        raise NoVictimError
    struck_at = world.best_step
    controllers = world.family.find("controller")
    if not world.driver.kill():
        raise NoVictimError
    ends_s = time.monotonic() + 5  # it may be writing one
    while any(is_alive(process) for process in controllers) and time.monotonic() < ends_s:
        time.sleep(0.05)
    newest = finished_checkpoints(world.driver.run_dir)[-1]
    model = newest / "model" / "model.safetensors"
    os.truncate(model, model.stat().st_size // 2)
    yield newest.name
    yield from succeeded(world, controllers)
    yield from back(world, struck_at)


def _given_up(world: World, node_id: str) -> Course:
    """Wait until Ray no longer counts the node; then it is noticed."""
    yield from until(lambda: world.nodes and node_id not in world.nodes.values())
    yield NOTICED


@contextmanager
def _cut_off(world: World, node: str) -> Iterator[None]:
    """A block in which no packet reaches the node, or leaves it."""
    world.held.add(node)
    world.cluster.cut(node)
    try:
        yield
    finally:
        world.cluster.join(node)
        world.held.discard(node)


def _choose_node(world: World, names: tuple[str, ...]) -> tuple[str, str]:
    there = [name for name in names if name in world.nodes and name not in world.held]
    if not there:
        raise NoVictimError
    name = world.random.choice(there)
    return name, world.nodes[name]


def _raylet(world: World, node: str) -> int:
    process = world.cluster.raylet(node)
    if process is None:
        raise NoVictimError
    return process.pid


def _fill(path: os.PathLike[str]) -> None:
    """Until the file system is full, to the last page."""
    block = b"\0" * (1 << 20)
    with open(path, "wb", buffering=0) as file:
        while block:
            try:
                file.write(block)
            except OSError:
                block = block[: len(block) // 2] if len(block) > 4096 else b""

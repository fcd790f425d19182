"""Bringing weights to engines of which some do not answer."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from actors.weights.manifest import WeightManifest
from cluster.fleet.broadcast import Published
from cluster.fleet.calls import Halt
from cluster.fleet.handles import RolloutHandle
from cluster.fleet.slots import Slot
from cluster.fleet.updating import Updates
from tests.shared.loops import in_a_loop

FINGERPRINT = 7


class Actor:
    """A worker's process: it answers what it is asked, unless it hangs."""

    def __init__(self, *, hangs: bool = False, fingerprint: int = FINGERPRINT) -> None:
        self.hangs = hangs
        self.calls: list[tuple[str, Any]] = []
        self.fingerprint = fingerprint
        for name in ("place", "pull", "update_weights"):
            setattr(self, name, SimpleNamespace(remote=self._method(name)))

    def _method(self, name: str) -> Any:
        def remote(*arguments: Any) -> Any:
            self.calls.append((name, arguments[0] if arguments else None))
            answer: Future[Any] = Future()
            if not self.hangs:
                known = {"version": arguments[0], "fingerprint": self.fingerprint} if arguments else {}
                answer.set_result(known)
            return SimpleNamespace(future=lambda: answer)

        return remote


def serving(name: str, actor: Actor, node_id: str = "its own") -> RolloutHandle:
    slot = Slot(is_initial=True)
    return RolloutHandle(name=name, actor=actor, slot=slot, serving=True, version=0, node_id=node_id)


def version(number: int) -> Published:
    manifest = WeightManifest(entries=(), bucket_sizes=())
    return Published(
        version=number, fingerprint=FINGERPRINT, manifest=manifest, buckets=["bucket"], node_id="learner's"
    )  # type: ignore[list-item]


def updates() -> Updates:
    return Updates(timeout_s=60.0, heartbeat_timeout_s=60.0)


def fall_silent(worker: RolloutHandle) -> None:
    worker.silent.set()
    worker.serving = False


@pytest.mark.parametrize("node_id", ["its own", "learner's"])
def test_a_broadcast_does_not_wait_for_a_worker_that_falls_silent(node_id) -> None:
    async def scenario() -> None:
        hung, well = serving("a", Actor(hangs=True), node_id), serving("b", Actor(), node_id)
        asyncio.get_running_loop().call_later(0.2, fall_silent, hung)
        await updates().broadcast(version(1), [hung, well])
        assert (hung.version, well.version) == (0, 1) and hung.lost is None
        pulled = [worker.name for worker in (hung, well) if ("pull", "bucket") in worker.actor.calls]
        # The next one of the node takes its turn; on the learner's own there is nothing to pull.
        assert pulled == (["a", "b"] if node_id == "its own" else [])

    in_a_loop(scenario)


def test_a_pull_that_is_given_up_serves_no_other_node() -> None:
    """Of three nodes the two others pull one after the other, for no copy is complete but the learner's."""

    async def scenario() -> None:
        hung = serving("a", Actor(hangs=True), "a")
        slow = [serving(name, Actor(hangs=True), name) for name in ("b", "c")]
        asyncio.get_running_loop().call_later(0.1, fall_silent, hung)
        task = asyncio.create_task(updates().broadcast(version(1), [hung, *slow]))
        await asyncio.sleep(0.5)
        assert [len(worker.actor.calls) for worker in slow] == [1, 0]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    in_a_loop(scenario)


def test_who_catches_up_serves_what_is_the_newest_when_it_is_done() -> None:
    async def scenario() -> None:
        under_test = updates()
        worker = serving("a", Actor())
        catching_up = asyncio.create_task(under_test.catch_up(worker, FINGERPRINT))
        await asyncio.sleep(0.05)
        assert not catching_up.done()  # nothing is announced yet
        under_test.announce(version(3))
        await asyncio.sleep(0)
        under_test.announce(version(4))
        await catching_up
        assert worker.version == 4 and under_test.are_served_by(worker)

    in_a_loop(scenario)


@pytest.mark.parametrize("way", ["broadcast", "catch_up", "begins with it"])
def test_other_weights_than_the_learners_end_the_run(way) -> None:
    async def scenario() -> None:
        under_test = updates()
        worker = serving("a", Actor(fingerprint=8), "learner's")
        with pytest.raises(Halt, match="a serves other weights than the learner's version 1"):
            if way == "broadcast":
                await under_test.broadcast(version(1), [worker])
            else:
                worker.version = 1 if way == "begins with it" else 0
                under_test.announce(version(1))
                await under_test.catch_up(worker, 8)

    in_a_loop(scenario)

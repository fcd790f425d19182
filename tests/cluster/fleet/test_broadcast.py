"""The order in which nodes pull a version of the weights."""

from __future__ import annotations

import asyncio

import pytest

from cluster.fleet.broadcast import Turns
from tests.shared.loops import settle


class Nodes:
    """Nodes whose pulls end when told to; counts how many pull at a time."""

    def __init__(self, turns: Turns, count: int) -> None:
        self._ends = [asyncio.Event() for _ in range(count)]
        self.begun: list[int] = []
        self.tasks = [
            asyncio.create_task(turns.pull(lambda node=node: self._pull(node))) for node in range(count)
        ]

    async def _pull(self, node: int) -> None:
        self.begun.append(node)
        await self._ends[node].wait()

    async def end(self, *nodes: int) -> list[int]:
        """All that have begun, once these have ended."""
        for node in nodes:
            self._ends[node].set()
        await settle()
        return self.begun


def test_each_complete_copy_serves_one_node_at_a_time() -> None:
    async def scenario() -> None:
        nodes = Nodes(Turns(turn_s=60), 8)
        await settle()
        assert nodes.begun == [0]
        assert await nodes.end(0) == [0, 1, 2]
        assert await nodes.end(1) == [0, 1, 2, 3, 4]
        assert await nodes.end(2, 3, 4) == list(range(8))
        await nodes.end(5, 6, 7)
        await asyncio.gather(*nodes.tasks)

    asyncio.run(scenario())


def test_a_node_that_hangs_holds_others_and_its_own_workers_up_for_one_turn_only() -> None:
    async def scenario() -> None:
        nodes = Nodes(Turns(turn_s=0.05), 3)
        await nodes.tasks[0]  # which hangs
        await settle()
        assert nodes.begun == [0, 1]
        assert await nodes.end(1) == [0, 1, 2]
        await nodes.end(0, 2)
        await asyncio.gather(*nodes.tasks)

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_a_copy_that_took_longer_than_its_turn_serves_others_once_it_is_complete() -> None:
    async def scenario() -> None:
        nodes = Nodes(Turns(turn_s=0.05), 5)
        await nodes.tasks[0]  # whose turn is over
        await settle()
        assert nodes.begun == [0, 1]
        assert await nodes.end(0) == [0, 1, 2]
        assert await nodes.end(1) == [0, 1, 2, 3, 4]
        await nodes.end(2, 3, 4)
        await asyncio.gather(*nodes.tasks)

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_a_pull_that_fails_raises_and_serves_nobody_but_lets_the_next_begin() -> None:
    async def scenario() -> None:
        turns = Turns(turn_s=60)

        async def fail() -> None:
            raise ConnectionError("no way")

        with pytest.raises(ConnectionError, match="no way"):
            await turns.pull(fail)
        nodes = Nodes(turns, 2)
        await settle()
        assert nodes.begun == [0]
        await nodes.end(0, 1)
        await asyncio.gather(*nodes.tasks)

    asyncio.run(scenario())


def test_a_cancelled_pull_is_not_left_running() -> None:
    async def scenario() -> None:
        nodes = Nodes(Turns(turn_s=60), 1)
        await settle()
        before = len(asyncio.all_tasks())
        nodes.tasks[0].cancel()
        await settle()
        assert len(asyncio.all_tasks()) == before - 2  # the turn's task, and the pull within it

    asyncio.run(scenario())

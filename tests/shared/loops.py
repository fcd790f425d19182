"""A scenario in an event loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


def in_a_loop(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run it; fails when it does not end."""

    async def bounded() -> None:
        async with asyncio.timeout(30):
            await scenario()

    asyncio.run(bounded())


async def settle(turns: int = 20) -> None:
    """Let every task go as far as it can without waiting."""
    for _ in range(turns):
        await asyncio.sleep(0)

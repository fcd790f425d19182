"""Faults of single processes. Each is a generator:

it strikes, yields the victim's name, yields None while it waits, once NOTICED when the product has noticed,
and returns when what was lost is back. Before its first yield it may raise NoVictimError.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence

import psutil

from benchmarks.chaos.processes import is_alive
from benchmarks.chaos.world import NoVictimError, Role, World

NOTICED = "noticed"
Course = Iterator[str | None]
Act = Callable[[World], Course]


def until(condition: Callable[[], object]) -> Course:
    """Wait."""
    while not condition():
        yield None


def back(world: World, struck_at: int, *, steps: int = 1) -> Course:
    """Wait until the run is whole, and by so many steps further on than it was when struck."""
    return until(lambda: world.is_whole and world.step >= struck_at + steps)


def succeeded(world: World, controllers: Sequence[psutil.Process]) -> Course:
    """Wait until these are gone, which is to notice, and another answers."""
    yield from until(lambda: not any(map(is_alive, controllers)))
    yield NOTICED
    yield from another_answers(world, controllers)


def another_answers(world: World, controllers: Sequence[psutil.Process]) -> Course:
    """Wait for facts that are not of these: what was seen of them last is believed for some seconds."""
    pids = {process.pid for process in controllers}
    return until(lambda: world.facts and world.facts["pid"] not in pids)


def worker(role: Role, number: signal.Signals) -> Act:
    """A worker is killed or stopped; noticed when the controller no longer has it, back when all work."""

    def act(world: World) -> Course:
        candidates = world.workers(role)
        if not candidates:
            raise NoVictimError
        victim = world.random.choice(candidates)
        world.strike(victim["pid"], number)
        yield victim["name"]
        yield from until(lambda: world.facts and victim["pid"] not in world.pids(role))
        yield NOTICED
        yield from until(lambda: len(world.workers(role)) == world.facts.get("targets", {}).get(role))

    return act


def gone(kind: str, number: signal.Signals, *, steps: int) -> Act:
    """A worker's child of a kind is killed or stopped; back when all work and so many steps were made.

    One that is stopped is noticed when it is gone.
    """

    def act(world: World) -> Course:
        victim = _any_of(world, kind)
        struck_at = world.best_step
        world.strike(victim.pid, number)
        yield f"pid {victim.pid}"
        yield from until(lambda: not is_alive(victim))
        if number == signal.SIGSTOP:
            yield NOTICED
        yield from back(world, struck_at, steps=steps)

    return act


def controller(number: signal.Signals) -> Act:
    """Noticed when it is gone, back when another one's run is further on."""

    def act(world: World) -> Course:
        victim = _any_of(world, "controller")
        struck_at = world.best_step
        world.strike(victim.pid, number)
        yield f"pid {victim.pid}"
        yield from succeeded(world, [victim])
        yield from back(world, struck_at)

    return act


def learner_rank(number: signal.Signals) -> Act:
    """One rank of the gang; noticed when its controller has given up and ended, back when the run is further on."""

    def act(world: World) -> Course:
        if world.facts.get("stage") != "training" or not world.step:
            raise NoVictimError
        victim = _any_of(world, "learner")
        controllers = world.family.find("controller")
        struck_at = world.best_step
        world.strike(victim.pid, number)
        yield f"pid {victim.pid}"
        yield from succeeded(world, controllers)
        yield from back(world, struck_at)

    return act


def driver_killed(world: World) -> Course:
    """Noticed when the controller has followed it."""
    struck_at = world.best_step
    controllers = world.family.find("controller")
    if not world.driver.kill():
        raise NoVictimError
    yield "bonfire train"
    yield from succeeded(world, controllers)
    yield from back(world, struck_at)


def driver_paused(world: World) -> Course:
    """Stopped for three steps, and continued: the run goes on without it."""
    if not world.is_whole or not world.driver.send(signal.SIGSTOP):
        raise NoVictimError
    struck_at = world.step
    try:
        yield "bonfire train"
        # Another fault may meanwhile end the run that it drives: then it is to hear of it.
        yield from until(lambda: world.step >= struck_at + 3 or not world.family.find("controller"))
    finally:
        world.driver.send(signal.SIGCONT)
    yield from back(world, struck_at)


def _any_of(world: World, kind: str) -> psutil.Process:
    found = world.family.find(kind)
    if not found:
        raise NoVictimError
    return world.random.choice(found)

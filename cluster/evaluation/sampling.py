"""Sampling and judging for an evaluation, with the same workers that training uses.

| function        | waits for                                  | unblocked by                           |
|-----------------|--------------------------------------------|----------------------------------------|
| `sample_model`  | the last scored group of one model's cells | its engines and verifiers, which their |
|                 |                                            | fleets watch and replace               |
| `judge_samples` | the last verdict of groups sampled earlier | the verifiers                          |
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ray
from ray.exceptions import ObjectLostError

from actors.types import Lease, Piece, SampleGroup, ScoredGroup
from actors.weights.manifest import WeightManifest
from cluster.config.schema import RunConfig
from cluster.evaluation.store import Cell
from cluster.fleet.broadcast import Published
from cluster.fleet.calls import Halt, WorkerLost
from cluster.fleet.rollouts import RolloutFleet
from cluster.fleet.stored import Assembly, JudgedGroup, StoredGroup, StoredPiece, read, store
from cluster.fleet.verifying import GROUPS_PER_CALL, VerifierFleet
from cluster.leasing.ledger import Ledger
from cluster.leasing.work import Work
from cluster.run.health import Streak
from verifiers.types import Problem

if TYPE_CHECKING:  # it imports torch and peft
    from learner.model.export import ServedApart

NOTHING_PUBLISHED = Published(
    version=0, fingerprint=None, manifest=WeightManifest(entries=(), bucket_sizes=()), buckets=()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One problem to sample for one cell; `index` is the problem's place, `seed` that of its first sample."""

    cell: Cell
    index: int
    problem: Problem
    prompt_token_ids: tuple[int, ...]
    seed: int


async def sample_model(
    model: str,
    config: RunConfig,
    asks: Sequence[Ask],
    *,
    num_samples: int,
    on_scored: Callable[[Ask, ScoredGroup], None],
    leave_out: Callable[[Ask, str], bool] | None = None,
    adapter: ServedApart | None = None,
) -> None:
    """`num_samples` samples for each ask, all of one model; its engines serve all temperatures. With `adapter`, which is of
    that model, they are samples of the two together.

    Asks are started in their order; `on_scored` receives each one once, when it is judged. `leave_out` hears of an ask on
    which the verifier failed, and why, and says whether it is to be left out; without it an ask that fails again and again
    raises Halt. Needs a Ray cluster. Raises Halt when workers keep failing.
    """
    ledger = Ledger(num_problems=len(asks), num_groups=len(asks), num_samples=num_samples, seed=0)
    failures = Failures(config, len(asks))
    received = Assembly()

    def receive(worker: str, pieces: list[StoredPiece]) -> None:
        for piece in pieces:
            if ledger.receive(piece.facts.piece, worker):
                received.add(piece)
                if ledger.is_received(piece.facts.group):
                    verifying.put(received.take(piece.facts.group))

    def accept(group: JudgedGroup) -> None:
        stored = group.stored
        try:
            samples = read(stored)
        except ObjectLostError:
            give_up([stored])
            return
        if ledger.commit(samples.group):
            failures.note_success()
            on_scored(asks[samples.group], ScoredGroup.of(samples, group.judgement))

    def give_back(group: StoredGroup, error: str) -> None:
        number = group.facts.group
        if leave_out is not None and leave_out(asks[number], error):
            ledger.commit(number)
            failures.note_left_out()
            return
        ledger.release([number])
        failures.note_unjudged(group, error, counts_again=leave_out is None)

    def give_up(groups: list[StoredGroup]) -> None:
        ledger.release([group.facts.group for group in groups])
        failures.note_gone(groups)

    def make_lease(piece: Piece) -> Lease:
        ask = asks[piece.group]
        return Lease(
            piece=piece,
            priority=piece.group,
            problem_id=ask.problem.id,
            prompt_token_ids=ask.prompt_token_ids,
            seed=ask.seed,
            temperature=ask.cell.temperature,
        )

    verifying = VerifierFleet(
        config=config.verifier,
        problems={ask.problem.id: ask.problem for ask in asks},
        on_judged=accept,
        on_unjudged=give_back,
        on_gone=give_up,
        on_lost=failures.note_lost,
    )
    engines = {"samples_per_prompt": num_samples, "adapter_rank": adapter.rank if adapter else None}
    rollouts = RolloutFleet(
        config=config.rollout.model_copy(update=engines),
        model=model,
        works=[Work(ledger=ledger, num_admitted=lambda version: len(asks), make_lease=make_lease)],
        synchronous=False,
        update_timeout_s=config.train.step_timeout_s,
        on_pieces=receive,
        on_lost=failures.note_lost,
    )
    rollouts.announce(_publish(adapter) if adapter else NOTHING_PUBLISHED)
    await _until_finished(failures, [verifying.start(), rollouts.start()], [rollouts.stop, verifying.stop])


def _publish(adapter: ServedApart) -> Published:
    return Published(
        version=1,
        fingerprint=adapter.fingerprint,
        manifest=adapter.manifest,
        buckets=[ray.put(bucket) for bucket in adapter.buckets],
    )


async def judge_samples(
    groups: Sequence[SampleGroup],
    config: RunConfig,
    problems: Mapping[str, Problem],
    *,
    on_scored: Callable[[ScoredGroup], None],
) -> None:
    """Judge groups that were sampled earlier; `on_scored` receives each of them once. Like `sample_model`."""
    failures = Failures(config, len(groups))
    samples = {group.group: group for group in groups}

    def accept(group: JudgedGroup) -> None:
        failures.note_success()
        on_scored(ScoredGroup.of(samples[group.stored.facts.group], group.judgement))

    def ask_again(group: StoredGroup, error: str) -> None:
        failures.note_unjudged(group, error)
        verifying.put(group)

    def store_again(gone: list[StoredGroup]) -> None:
        failures.note_gone(gone)
        for group in store([samples[group.facts.group] for group in gone]):
            verifying.put(group)

    verifying = VerifierFleet(
        config=config.verifier,
        problems=problems,
        on_judged=accept,
        on_unjudged=ask_again,
        on_gone=store_again,
        on_lost=failures.note_lost,
    )
    for start in range(0, len(groups), GROUPS_PER_CALL):
        for group in store(groups[start : start + GROUPS_PER_CALL]):
            verifying.put(group)
    await _until_finished(failures, [verifying.start()], [verifying.stop])


class Failures:
    """Counts groups to go, and failures without a success between: too many raise Halt."""

    def __init__(self, config: RunConfig, num_groups: int) -> None:
        self.finished = asyncio.Event()
        self._limit = config.train.max_consecutive_failures
        self._verifier = config.verifier.label
        self._num_left = num_groups
        self._in_a_row = Streak()
        self._unjudged: Counter[int] = Counter()

    def note_success(self) -> None:
        self._in_a_row.end()
        self.note_left_out()

    def note_left_out(self) -> None:
        """One group less to go, which shows of nothing that it works."""
        self._num_left -= 1
        if not self._num_left:
            self.finished.set()

    def note_unjudged(self, group: StoredGroup, error: str, *, counts_again: bool = True) -> None:
        """The verifier failed on a group; `counts_again`: also where it has failed on that one before."""
        number, problem_id = group.facts.group, group.facts.problem_id
        self._unjudged[number] += 1
        if not counts_again and self._unjudged[number] > 1:
            return
        if self._unjudged[number] >= self._limit:
            raise Halt(f"verifier {self._verifier} fails on problem {problem_id}: {error}")
        self._note(f"verifier {self._verifier} on problem {problem_id}: {error}")

    def note_gone(self, groups: Sequence[StoredGroup]) -> None:
        workers = ", ".join(groups[0].facts.workers)
        self._note(f"samples of {workers} are lost with the node they were on", groups[0].since_s)

    def note_lost(self, role: str, error: WorkerLost) -> None:
        if not error.is_failed_start:  # its fleet ends where none starts
            self._note(str(error), error.made_s)

    def _note(self, message: str, made_s: float = float("inf")) -> None:
        self._in_a_row.add(made_s)
        if self._in_a_row.length >= self._limit:
            raise Halt(
                f"{self._in_a_row.length} failures in a row without a finished group; the last: {message}"
            )


async def _until_finished(
    failures: Failures,
    workers: Sequence[asyncio.Task[None]],
    stops: Sequence[Callable[[], Awaitable[None]]],
) -> None:
    """Wait for the last group, or for the first worker's task that fails; then end the workers."""
    waiting = asyncio.create_task(failures.finished.wait())
    try:
        done, _ = await asyncio.wait([waiting, *workers], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in (waiting, *workers):
            task.cancel()
        await asyncio.gather(waiting, *workers, return_exceptions=True)
        for stop in stops:
            await stop()

"""The learner's next batch: brought to it part by part, as its groups are judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cluster.fleet.learning import LearnerHandle
from cluster.fleet.stored import SamplesLost, StoredGroup
from cluster.run.batches import Batches
from cluster.run.metrics import Metrics
from cluster.run.progress import Progress


class Feeder:
    """Has the learner fetch groups, and begin with those of a batch that are there while others are still to come.

    Groups that are too old to be trained are pending again, and `top_up` is called; so are those whose samples were lost
    before the learner had them, of which `on_gone` hears.
    """

    def __init__(
        self,
        batches: Batches,
        learner: LearnerHandle,
        progress: Progress,
        metrics: Metrics,
        *,
        top_up: Callable[[], None],
        on_gone: Callable[[list[StoredGroup]], None],
    ) -> None:
        self._batches = batches
        self._learner = learner
        self._progress = progress
        self._metrics = metrics
        self._top_up = top_up
        self._on_gone = on_gone

    async def next_batch(self, version: int, *, is_over: Callable[[], bool]) -> list[int] | None:
        """The groups that the learner at `version` trains next, ascending: it has passed over them, or has fetched them,
        so that none of them can be lost any more but with the learner. None once `is_over`.
        """
        while not is_over():
            if num_stale := self._batches.discard_stale(version):
                self._metrics.observe_discarded("stale", num_stale)
                self._top_up()
            if batch := self._batches.cut(version):
                if await self._fetched([number for part in self._batches.rest(batch) for number in part]):
                    return batch
                continue
            if part := self._batches.next_part(version):
                if await self._fetched(part):
                    await self._learner.begin_step(part, num_groups=self._batches.groups_per_step)
                    self._batches.begin(part)
                    self._progress.end_wait()
                continue
            self._batches.changed.clear()
            with self._progress.waiting():
                await self._learner.wait(self._batches.changed)
        return None

    async def _fetched(self, numbers: Sequence[int]) -> bool:
        """Whether the learner has these groups now; if not, some were lost, and are no longer to be had."""
        try:
            await self._learner.fetch(self._batches.groups(numbers))
        except SamplesLost as error:
            self._on_gone([group.stored for group in self._batches.discard_lost(error.object_id)])
            return False
        return True

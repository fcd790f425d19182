"""What a controller says of itself while it ends. Its workers are none: whole runs are in files of their own."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.config.parse import parse_config
from cluster.fleet.calls import WorkerLost
from cluster.run.controller import Controller
from cluster.run.health import Health
from cluster.run.recovery import Origin, RunLost

ControllerClass = Controller.__ray_metadata__.modified_class


class Losing(ControllerClass):
    """Its learner is lost at once; `look` is called while it gives up its workers."""

    def __init__(self, run_dir: Any, look: Any) -> None:
        async def stop() -> None:
            look(self)

        idle = SimpleNamespace(start=lambda: asyncio.create_task(asyncio.sleep(3600)), stop=stop)
        self._config = parse_config({"model": "some/model"})
        self._record = SimpleNamespace(run_dir=run_dir)
        self._origin = Origin()
        self._health = Health(self._config)
        self._rollouts = self._verifying = idle
        self._elastic = SimpleNamespace(run=lambda: asyncio.sleep(3600))
        self._held_out = SimpleNamespace(run=lambda: asyncio.sleep(3600), verdict=None)
        self._learner = SimpleNamespace(stop=lambda: None)
        self._syncing = None
        self._stopping = self._is_over = False
        self._stage = "training"

    async def _watch(self) -> None:
        await asyncio.sleep(3600)

    async def _train(self) -> None:
        raise WorkerLost("learner was lost while training a step: ActorDiedError")


def test_a_run_that_loses_its_learner_is_none_that_was_asked_to_stop_and_takes_no_more_workers(tmp_path):
    """The command follows a lost controller with another one, unless it was to stop."""
    was_asked = []

    def look(controller: Losing) -> None:
        was_asked.append(controller._stopping)
        with pytest.raises(ValueError, match="the run is ending: it takes no more workers"):
            controller.scale(rollout=2)

    with pytest.raises(RunLost, match="learner was lost"):
        asyncio.run(Losing(tmp_path, look).run())
    assert was_asked == [False, False]

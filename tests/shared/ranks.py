"""A gang of learners in processes of their own, at a test's command: real gloo, no Ray."""

from __future__ import annotations

from collections.abc import Mapping
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import MappingProxyType
from typing import Any

from actors.types import ScoredGroup
from learner.config import LearnerConfig
from learner.learner import Learner
from learner.objectives.config import ObjectiveConfig
from learner.supervised.demonstrations import Demonstrations
from learner.supervised.learner import SupervisedLearner
from learner.types import PublishedWeights, StepResult
from tests.shared.tiny_model import model_path
from tests.shared.warm import WARM

TIMEOUT_S = 120.0


def make_learner(
    settings: dict[str, Any],
    objective: ObjectiveConfig,
    model: str = "",
    base_scores: Path | None = None,
    **gang: Any,
) -> Learner:
    return Learner(
        model or model_path(),
        LearnerConfig(**settings),
        objective,
        0.7,
        seed=0,
        base_scores=base_scores,
        **gang,
    )


def make_supervised(
    settings: dict[str, Any],
    data: Demonstrations,
    identity: Mapping[str, Any] = MappingProxyType({"sft.seed": 0}),
    model: str = "",
    **gang: Any,
) -> SupervisedLearner:
    return SupervisedLearner(model or model_path(), LearnerConfig(**settings), 0, data, identity, **gang)


class Ranks:
    """A learner's methods, called on every rank; each returns what every rank returned, or raised."""

    def __init__(self, size: int) -> None:
        from learner.gang import open_store

        self._store = open_store("127.0.0.1", size, TIMEOUT_S)
        self.processes: list[Any] = []
        self._connections: list[Any] = []
        for rank in range(size):
            ours, theirs = Pipe()
            process = WARM.Process(target=_be_rank, args=(theirs, self._store.port, rank, size), daemon=True)
            process.start()
            theirs.close()
            self.processes.append(process)
            self._connections.append(ours)

    def make(
        self,
        settings: dict[str, Any],
        objective: ObjectiveConfig,
        model: str = "",
        base_scores: Path | None = None,
    ) -> None:
        """A fresh learner in place of the one before."""
        made = self.call("make", settings, objective, model or model_path(), base_scores)
        assert made == [None] * len(made), made

    def make_supervised(self, settings: dict[str, Any], data: Demonstrations) -> None:
        """The same, from demonstrations."""
        made = self.call("make_supervised", settings, data, {}, model_path())
        assert made == [None] * len(made), made

    def begin_step(self, groups: list[ScoredGroup], num_groups: int) -> list[Any]:
        return self.call("begin_step", groups, num_groups)

    def train_step(self, groups: list[ScoredGroup]) -> list[StepResult]:
        return self.call("train_step", groups)

    def published(self) -> list[PublishedWeights]:
        return self.call("published")

    def save(self, directory: Path) -> None:
        self.call("save", directory)

    def load(self, directory: Path) -> list[Any]:
        return self.call("load", directory)

    def num_here(self) -> list[int]:
        return self.call("num_here")

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        for process in self.processes:
            process.join(TIMEOUT_S)
            assert process.exitcode == 0, f"a rank has not ended in order: {process.exitcode}"

    def call(self, name: str, *arguments: Any) -> list[Any]:
        for connection in self._connections:
            connection.send((name, arguments))
        for connection in self._connections:
            assert connection.poll(TIMEOUT_S), f"a rank does not answer to {name}"
        return [connection.recv() for connection in self._connections]


def _serve(connection: Any, gang: Any) -> None:
    learner: Any = None
    while True:
        try:
            name, arguments = connection.recv()
        except EOFError:
            return
        try:
            if name == "make":
                learner = make_learner(*arguments, gang=gang)
                answer = None
            elif name == "make_supervised":
                learner = make_supervised(*arguments, gang=gang)
                answer = None
            elif name == "num_here":
                answer = gang.num_here()
            else:
                answer = getattr(learner, name)
                answer = answer(*arguments) if callable(answer) else answer
        except Exception as error:  # noqa: BLE001  the test looks at it
            answer = error
        connection.send(answer)


def _be_rank(connection: Connection, port: int, rank: int, size: int) -> None:
    import torch

    from learner.gang import connect_store, join

    torch.set_num_threads(1)
    store = connect_store("127.0.0.1", port, size, TIMEOUT_S)
    gang = join(store, rank=rank, size=size, address="127.0.0.1", device="cpu", timeout_s=TIMEOUT_S)
    _serve(connection, gang)

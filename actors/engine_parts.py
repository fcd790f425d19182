"""The processes that hold an engine's model: this one, or with `rollout.tensor_parallel` several children of it.

Children take one call after the other, steps among them. What is to go on beside sampling is therefore begun by one
call between two steps, in a thread of each child, and asked for by later ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from actors.config import RolloutConfig
from actors.weights.shared_memory import SharedBuckets

ASK_EVERY_S = 0.01
LOADING_TIMEOUT_S = 600.0
"""For a call that loads weights."""
Buckets = Sequence[np.ndarray] | SharedBuckets


class EngineParts:
    """Remote calls to all of them."""

    def __init__(
        self,
        llm: Any,
        config: RolloutConfig,
        between_steps: Callable[[Callable[[], Any]], Future[Any]],
    ) -> None:
        """`between_steps`: has the thread that steps the engine call something."""
        self._llm = llm
        self._num_parts = config.tensor_parallel
        self._timeout_s = config.heartbeat_timeout_s
        self._between_steps = between_steps
        self._failure: Exception | None = None
        llm.get_supported_tasks()  # asks all parts, once: not when the first sequence comes, without a time limit

    def raise_if_failed(self) -> None:
        """Raises RuntimeError once one of several has died, or a call to them has failed.

        After such a call they may hold different weights, and answers to it may be taken for those to the next one.
        """
        if self._num_parts > 1 and (self._failure or self._executor.is_failed):
            why = f"failed: {self._failure}" if self._failure else "has died"
            raise RuntimeError(f"one of the engine's {self._num_parts} processes {why}") from self._failure

    def call(self, method: str, **arguments: Any) -> list[Any]:
        """A method of vLLM's worker; with several parts only from the thread that steps the engine.

        Raises TimeoutError where one of several does not answer.
        """
        return self._ask(method, timeout=LOADING_TIMEOUT_S, kwargs=arguments)

    def call_beside(self, method: str, *arguments: Any) -> list[Any]:
        """A method of `FingerprintExtension` while the engine samples, from another thread, one at a time.

        Raises TimeoutError where one of several does not answer.
        """
        if self._num_parts == 1:
            return self._ask(method, args=arguments)
        ask = partial(self._ask, timeout=self._timeout_s)
        self._between_steps(partial(ask, "begin_beside", args=(method, arguments))).result()
        deadline_s = time.monotonic() + LOADING_TIMEOUT_S
        while True:
            if time.monotonic() > deadline_s:
                self._failure = TimeoutError(f"{method} has not ended within {LOADING_TIMEOUT_S:g} s")
                raise self._failure
            taken = self._between_steps(partial(ask, "take_beside")).result()
            if all(is_done for is_done, _ in taken):
                return [answer for _, answer in taken]
            time.sleep(ASK_EVERY_S)

    def fingerprint(self) -> int:
        """Of the weights that they hold together."""
        from actors.weights.fingerprint import add_fingerprints  # it imports torch

        return add_fingerprints(self.call_beside("weights_fingerprint"))

    @contextmanager
    def sharing(self, buckets: Sequence[np.ndarray]) -> Iterator[Buckets]:
        """The buckets in a form that reaches all parts without being sent to each."""
        if self._num_parts == 1:
            yield buckets
            return
        shared = SharedBuckets.of(buckets)
        try:
            yield shared
        finally:
            shared.close()

    def kill(self) -> None:
        """End the children at once, those too that stand still."""
        if self._num_parts > 1:
            for worker in self._executor.workers:
                worker.proc.kill()

    def _ask(self, method: str, **arguments: Any) -> list[Any]:
        try:
            answers: list[Any] = self._llm.collective_rpc(method, **arguments)
        except Exception as error:
            self._failure = error
            raise
        return answers

    @property
    def _executor(self) -> Any:
        return self._llm.engine_core.engine_core.model_executor

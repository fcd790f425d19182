"""One vLLM engine, driven by a thread of ours in this process.

The thread alternates between vLLM's `step()` and a queue of calls, so that whatever is called
(new requests, a weight update) happens *between* two steps: an update is atomic with respect to
sampling, and every token's policy version is exact. Pausing is not stepping.

Only this module and the receivers of `weights` import vLLM, and only when an engine is built.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from actors.config import RolloutConfig
from actors.engine_config import check_known
from actors.engine_parts import Buckets, EngineParts
from actors.environment import engine_arguments, engine_environment
from actors.heap import made_to_stay
from actors.kv_cache import AFTER_UPDATE, salt
from actors.types import Lease
from actors.weights.manifest import WeightManifest

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What vLLM's scheduler holds at the moment, and what its prefix cache was asked for since the engine was built."""

    num_running: int
    num_waiting: int
    """Sequences without a place among `rollout.max_num_seqs`, or whose KV has no room."""
    kv_usage: float
    """Share of the blocks of the KV cache that sequences hold."""
    prefix_queried_tokens: int
    """Tokens of new sequences that were looked up; 0 without `rollout.prefix_caching`."""
    prefix_hit_tokens: int
    """Those of them that were there."""


@dataclass(slots=True, kw_only=True)
class EngineClock:
    """Where the stepping thread's time went, in seconds since the engine was built."""

    busy_s: float = 0.0
    idle_s: float = 0.0
    updating_s: float = 0.0
    running_s: float = 0.0
    """Summed over sequences: how long each was being decoded."""
    cache_s: float = 0.0
    """Summed over the time that was busy: the share of the KV cache in use, from 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateTimes:
    """When an update of the weights was where, in seconds since the epoch."""

    began_s: float
    staged_s: float
    served_s: float
    """Between two steps; what comes before is also the wait for the end of the step in progress."""
    pause_s: float
    """Seconds in which the engine did not sample for it."""
    confirmed_s: float


@contextlib.contextmanager
def _unseen(module: str) -> Iterator[None]:
    """Keep a module out of a search through all that are loaded.

    vLLM's CPU engine looks for kernels among the attributes of what every module holds, and fails over an object of
    llvmlite's, which Numba loads: it answers to any name, `__dict__` included, with a function.
    """
    found = sys.modules.pop(module, None)
    try:
        yield
    finally:
        if found is not None:
            sys.modules[module] = found


class Engine:
    """vLLM with groups of samples, weight versions and a clock. Thread-safe."""

    def __init__(self, model: str, config: RolloutConfig, *, stop_token_ids: Sequence[int]) -> None:
        os.environ.update(engine_environment(config))
        with made_to_stay():
            from vllm.config import WeightTransferConfig
            from vllm.engine.arg_utils import EngineArgs
            from vllm.platforms import current_platform
            from vllm.v1.engine.llm_engine import LLMEngine
            from vllm.v1.metrics.stats import PrefixCacheStats

            from actors.weights import adapter_receiver, receiver

        if config.num_gpus == 0 and not current_platform.is_cpu():
            raise ValueError(
                "num_gpus = 0 asks for vLLM's engine on the CPU, and the vLLM installed is built for GPUs: set "
                "rollout.num_gpus = 1, of a judge verifier.num_gpus, or install the CPU build"
            )
        check_known(config.engine, [field.name for field in dataclasses.fields(EngineArgs)])
        arguments = engine_arguments(model, config) | {
            "weight_transfer_config": WeightTransferConfig(backend=receiver.BACKEND),
            "worker_extension_cls": receiver.EXTENSION,
        }
        if config.adapter_rank:
            arguments |= adapter_receiver.adapter_arguments(config.adapter_rank)
        self._config = config
        self._stop_token_ids = list(stop_token_ids)
        try:
            with _unseen("llvmlite.binding.ffi"):
                self._llm = LLMEngine.from_engine_args(EngineArgs(**arguments))
        except (ValueError, TypeError) as error:
            # What is raised goes to another process, and pydantic's own error cannot.
            settings = f" with rollout.engine = {config.engine}" if config.engine else ""
            raise ValueError(f"vLLM does not start{settings}: {' '.join(str(error).split())}") from error
        except Exception as error:
            if config.tensor_parallel == 1:
                raise
            raise RuntimeError(
                f"vLLM does not start with rollout.tensor_parallel = {config.tensor_parallel}: {error}: what its processes "
                "said is in the worker's log, the newest worker-*.err of /tmp/ray/session_latest/logs on its node"
            ) from error
        self._parts = EngineParts(self._llm, config, self._call)
        self._adapter = adapter_receiver.adapter_request() if config.adapter_rank else None
        if self._adapter:
            self._parts.call("put_no_adapter")
        core: Any = self._llm.engine_core  # of this process, so that its scheduler is at hand
        self._scheduler = core.engine_core.scheduler
        # vLLM counts lookups only with all of its statistics, which cost time at every step.
        self._prefixes = PrefixCacheStats()
        self._scheduler.kv_cache_manager.log_stats = True
        self._scheduler.kv_cache_manager.prefix_cache_stats = self._prefixes
        self.version = 0
        self._llm.set_weight_version(str(self.version))
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._pending: dict[str, Future[list[Any]]] = {}
        """Of every lease in the engine."""
        self._num_asked = 0
        """Leases since the engine was built."""
        self._num_unadded = 0
        """Sequences that have not entered the engine yet."""
        self._counting = threading.Lock()
        self._clock = EngineClock()
        self.num_reprefilled_tokens = 0
        """Tokens of running sequences whose KV updates have dropped, so that they are computed again."""
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="weights")
        """Updates and fingerprints, one after the other: nothing is written that is being read."""
        self.last_update: UpdateTimes | None = None
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="vllm-stepping", daemon=True)
        self._thread.start()

    def sample(self, leases: Sequence[Lease]) -> list[Future[list[Any]]]:
        """Start sampling pieces of groups; each future resolves to the samples of one lease, in their order.

        A sample is a vLLM `CompletionOutput`. Lower priorities go first, whenever they come, and of equals the earlier
        lease. A lease that vLLM refuses (its prompt is too long) fails alone, with ValueError.
        The leases enter the engine between the same two steps, so that equal leases on equal
        weights form equal batches: what makes a seeded run repeatable to the last bit.
        """
        futures: list[Future[list[Any]]] = [Future() for _ in leases]
        with self._counting:
            self._num_unadded += sum(lease.piece.num_samples for lease in leases)

        def add() -> None:
            for lease, future in zip(leases, futures, strict=True):
                try:
                    self._add(lease, future)
                except Exception as error:  # noqa: BLE001 - vLLM's own types, which do not cross processes
                    self._parts.raise_if_failed()
                    future.set_exception(
                        ValueError(
                            f"vLLM refuses problem {lease.problem_id!r} (group {lease.piece.group}): {error}"
                        )
                    )
                with self._counting:  # not before: who asks meanwhile must not find too few
                    self._num_unadded -= lease.piece.num_samples

        def pass_on(added: Future[None]) -> None:
            if (error := added.exception()) is not None:
                for future in futures:
                    if not future.done():
                        future.set_exception(error)

        self._call(add).add_done_callback(pass_on)
        return futures

    def _add(self, lease: Lease, future: Future[list[Any]]) -> None:
        """As one request, of which vLLM makes one for each sample: the i-th draws with the request's seed + i."""
        from vllm.inputs import TokensPrompt
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        config, number = self._config, self._num_asked
        prompt = TokensPrompt(prompt_token_ids=list(lease.prompt_token_ids))
        version_salt = salt(self.version) if config.kv_after_update == "keep" else ""
        if lease.cache_salt or version_salt:
            prompt["cache_salt"] = lease.cache_salt + version_salt
        parameters = SamplingParams(
            n=lease.piece.num_samples,
            temperature=config.temperature if lease.temperature is None else lease.temperature,
            max_tokens=config.max_tokens,
            seed=lease.seed + lease.piece.start,
            stop_token_ids=self._stop_token_ids,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        self._llm.add_request(
            str(number),
            prompt,
            parameters,
            arrival_time=float(number),
            lora_request=self._adapter,
            priority=lease.priority,
        )
        self._pending[str(number)] = future
        self._num_asked += 1

    def update_weights(
        self, version: int, manifest: WeightManifest, buckets: Sequence[np.ndarray]
    ) -> Future[int]:
        """Serve `version` soon; the future resolves to the new weights' fingerprint.

        They are made ready, and their fingerprint is reckoned, while sampling goes on; in between, they take the places
        of the old ones from one step to the next. The buckets may become the weights themselves: nobody may write to
        them again.

        Sequences in flight go on, as `rollout.kv_after_update` says: with "recompute" their KV cache is rebuilt under
        the new weights, so that every later token is sampled exactly from the new policy given its prefix. A version
        older than the engine's changes nothing: Ray may run a call that nobody waits for any more after a later one.
        """
        self.raise_if_failed()
        return self._beside.submit(self._update, version, manifest, buckets)

    def fingerprint(self) -> Future[int]:
        """Fingerprint of the weights the engine holds once the updates that were asked for before are through."""
        self.raise_if_failed()
        return self._beside.submit(self._parts.fingerprint)

    def _update(self, version: int, manifest: WeightManifest, buckets: Sequence[np.ndarray]) -> int:
        began_s = time.time()
        if version < self.version:
            return self._parts.fingerprint()
        with self._parts.sharing(buckets) as shared:
            if not self._adapter:
                self._parts.call_beside("stage_weights", manifest, shared)
            staged_s = time.time()
            pause_s = self._call(partial(self._serve, version, manifest, shared)).result()
        served_s = time.time()
        self._parts.call_beside("release_replaced_weights")
        fingerprint = self._parts.fingerprint()
        self.last_update = UpdateTimes(
            began_s=began_s, staged_s=staged_s, served_s=served_s, pause_s=pause_s, confirmed_s=time.time()
        )
        return fingerprint

    def _serve(self, version: int, manifest: WeightManifest, buckets: Buckets) -> float:
        """Between two steps; returns the seconds that it took."""
        started = time.perf_counter()
        update = {"manifest": manifest, "buckets": buckets}
        if self._adapter:
            self._parts.call("put_adapter", **update)
        else:
            self._parts.call("start_weight_update")
            self._parts.call("update_weights", update_info=update)
            self._parts.call("finish_weight_update")
        self.num_reprefilled_tokens += AFTER_UPDATE[self._config.kv_after_update](self._scheduler, version)
        self._llm.set_weight_version(str(version))
        self.version = version
        seconds = time.perf_counter() - started
        self._clock.updating_s += seconds
        return seconds

    def raise_if_failed(self) -> None:
        """Raises RuntimeError once the stepping thread has ended on an error."""
        if self._failure is not None:
            raise RuntimeError(f"the engine has failed: {self._failure!r}") from self._failure

    @property
    def num_unfinished(self) -> int:
        """Sequences that are sampled, or wait for it."""
        return self._num_unadded + self._scheduler.get_num_unfinished_requests()

    @property
    def clock(self) -> EngineClock:
        """As it stands now."""
        return replace(self._clock)

    @property
    def load(self) -> EngineLoad:
        """Five reads of what is there; a step in progress may change one between two of them."""
        num_running, num_waiting = self._scheduler.get_request_counts()
        return EngineLoad(
            num_running=num_running,
            num_waiting=num_waiting,
            kv_usage=self._scheduler.kv_cache_manager.usage,
            prefix_queried_tokens=self._prefixes.queries,
            prefix_hit_tokens=self._prefixes.hits,
        )

    def shutdown(self) -> None:
        """Stop stepping and free the engine; unfinished leases fail with RuntimeError."""
        self._stopping.set()
        self._thread.join(timeout=30)
        self._beside.shutdown()
        self._llm.engine_core.shutdown()

    def _call(self, function: Callable[[], Result]) -> Future[Result]:
        self.raise_if_failed()
        future: Future[Result] = Future()

        def run() -> None:
            try:
                self.raise_if_failed()
                result = function()
            except Exception as error:  # noqa: BLE001 - it is raised where the call was made
                future.set_exception(error)
            else:
                future.set_result(result)

        self._calls.put(run)
        if self._failure is not None:  # the thread ended meanwhile
            self._run_queued_calls()
        return future

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._parts.raise_if_failed()
                if self._pending:
                    started = time.perf_counter()
                    output: Any
                    for output in self._llm.step():
                        if output.finished:
                            completions = sorted(output.outputs, key=lambda one: one.index)
                            self._pending.pop(output.request_id).set_result(completions)
                    seconds = time.perf_counter() - started
                    self._clock.busy_s += seconds
                    self._clock.running_s += seconds * len(self._scheduler.running)
                    self._clock.cache_s += seconds * self._scheduler.kv_cache_manager.usage
                self._run_calls()
            self._fail(RuntimeError("the engine was shut down"))
        except BaseException as error:  # noqa: BLE001 - it is raised to every caller from now on
            self._fail(error)

    def _run_calls(self) -> None:
        """Run what is queued; without anything to sample, wait for it and count the wait as idle."""
        if not self._pending:
            started = time.perf_counter()
            try:
                call = self._calls.get(timeout=0.1)
            except queue.Empty:
                return
            finally:
                self._clock.idle_s += time.perf_counter() - started
            call()
        self._run_queued_calls()

    def _run_queued_calls(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._calls.get_nowait()()

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        self._parts.kill()
        for future in self._pending.values():
            if not future.done():
                future.set_exception(RuntimeError(f"the engine has failed: {error!r}"))
        self._pending.clear()
        self._run_queued_calls()

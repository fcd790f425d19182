"""The controller: the one loop of a run.

     ledger ──lease──▶ rollout workers ──facts──▶ verifier workers ──verdicts──▶ buffer
       ▲                     ▲      └ ─ ─ samples ─ ─ ▶ and ─ ─ ▶ learner           │ batch
       │                     └───── weights v+1, in flight ◀──── learner ◀──────────┘
       └──────────────────────────── trained group numbers ◀────────┘

| loop                | waits for                          | unblocked by                        |
|---------------------|------------------------------------|-------------------------------------|
| rollouts (a slot)   | finished groups of its worker      | engine, or heartbeat timeout        |
| verifying (a slot)  | groups, then their verdicts        | verifier, or heartbeat timeout      |
| `_train`            | a batch, and the learner's passes  | verdicts; learner, or step timeout  |
| `_sync`             | all engines serving the new version| engines; step or heartbeat timeout  |
| `HeldOut.run`       | the verdicts of an evaluation      | engines, verifiers                  |
| `_watch`            | the clock                          |                                     |
| `Elastic.run`       | the clock                          |                                     |

Synchronous training is this loop with `max_staleness = 0`. Workers only return values; everything
they were given is given again when they are lost. Of samples there are references and facts here, never a token.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path
from typing import Any

import ray

from cluster.config.schema import RunConfig
from cluster.fleet.broadcast import Published
from cluster.fleet.calls import Halt, WorkerLost, is_accident
from cluster.fleet.elastic import Elastic
from cluster.fleet.learning import LearnerHandle
from cluster.fleet.nodes import reached_at
from cluster.fleet.rollouts import RolloutFleet
from cluster.fleet.verifying import VerifierFleet
from cluster.leasing import admission
from cluster.leasing.work import Work
from cluster.run.arrivals import Arrivals
from cluster.run.asked import Asked
from cluster.run.asking import Asking
from cluster.run.batches import Batches
from cluster.run.bottleneck import limited_by
from cluster.run.feeding import Feeder
from cluster.run.gauges import refresh
from cluster.run.health import Health, log_to
from cluster.run.held_out import HeldOut
from cluster.run.metrics import Metrics
from cluster.run.progress import Progress
from cluster.run.recovery import Origin, RunLost
from cluster.run.restoring import restore
from cluster.run.routes import Routes
from cluster.run.saving import Saver
from cluster.run_directory.record import BASE_SCORES_FILE, RunRecord
from verifiers.types import Problem

logger = logging.getLogger(__name__)


@ray.remote(num_cpus=0, max_restarts=0)
class Controller:
    """Named actor of a run: `run` is the run, the other methods look at it or steer it."""

    def __init__(
        self,
        config: RunConfig,
        run_dir: str,
        problems: list[Problem],
        prompts: list[tuple[int, ...]],
        demonstrations: list[tuple[int, ...]],
        asked: Asked,
        origin: Origin,
    ) -> None:
        """`prompts` and `demonstrations` are the problems' token ids, in their order; demonstrations only
        for an objective that imitates them, otherwise none. `asked`: what the policy is evaluated on meanwhile.
        """
        self._config = config
        self._record = RunRecord(Path(run_dir))
        self._origin = origin
        train = config.train
        restored = restore(config, origin, problems, self._record.run_dir)
        self._version, self._ledger, self._unjudged = restored.version, restored.ledger, restored.unjudged
        self._record.rewind(self._version)
        self._batches = Batches(train, self._ledger)
        self._in_training: set[int] = set()
        self._stopping = False
        self._is_over = False
        self._stage = "starting"
        self._health = Health(config)
        self._progress = Progress(steps=train.steps)
        self._sync_s = 0.0
        self._syncing: asyncio.Task[None] | None = None
        self.metrics = Metrics(self._record.run_dir)
        self.metrics.observe_recoveries(origin.num_recoveries)
        needs_base = config.objective.needs_base_scores
        self._learner = LearnerHandle(config, self._record.run_dir / BASE_SCORES_FILE if needs_base else None)
        self._feeder = Feeder(
            self._batches,
            self._learner,
            self._progress,
            self.metrics,
            top_up=lambda: self._rollouts.top_up(),
            on_gone=lambda groups: self._routes.trained.note_gone(groups),
        )
        self._saver = Saver(
            config,
            self._record,
            self._learner,
            problems,
            self.metrics,
            newest=self._version if origin.checkpoint else None,
        )
        self._metrics_port = self.metrics.serve(config.metrics).server_port
        self._metrics_host = reached_at(config.metrics.host)
        self._verifying = VerifierFleet(
            config=config.verifier,
            problems={problem.id: problem for problem in problems},
            demonstrations=(
                {problem.id: ids for problem, ids in zip(problems, demonstrations, strict=True)}
                if demonstrations
                else {}
            ),
            on_judged=lambda group: self._routes.accept(group),
            on_unjudged=lambda group, error: self._routes.give_back(group, error),
            on_gone=lambda groups: self._routes.release(groups),
            on_lost=self._note_lost,
            on_news=self._note_news,
        )
        self._held_out = HeldOut(
            config,
            asked,
            self._record,
            self.metrics,
            self._health,
            version=self._version,
            trained_to=lambda: self._version,
            is_stopping=lambda: self._stopping or self._is_over,
            verify=self._verifying.put,
            on_change=self._go_on,
        )
        arrivals = Arrivals(
            ledger=self._ledger,
            batches=self._batches,
            unjudged=self._unjudged,
            indices={problem.id: index for index, problem in enumerate(problems)},
            progress=self._progress,
            metrics=self.metrics,
            health=self._health,
            max_staleness=train.max_staleness,
            version=lambda: self._version,
            is_ending=lambda: self._stopping or self._is_over,
            verify=self._verifying.put,
            top_up=lambda: self._rollouts.top_up(),
        )
        self._routes = Routes(trained=arrivals, held_out=self._held_out)
        trained = Work(
            ledger=self._ledger,
            num_admitted=self._num_admitted,
            make_lease=Asking(config, self._ledger, problems, prompts).lease,
        )
        self._rollouts = RolloutFleet(
            config=config.rollout,
            # Not the checkpoint's model: that one is deleted in time, and a replacement starts from it too.
            model=config.model,
            works=[trained, self._held_out.work],
            synchronous=train.max_staleness == 0,
            update_timeout_s=train.step_timeout_s,
            on_pieces=lambda worker, pieces: self._routes.receive(worker, pieces),
            on_lost=self._note_lost,
            on_news=self._note_news,
        )
        self._elastic = Elastic(
            config,
            self._rollouts,
            self._verifying,
            waited_s=lambda: self._progress.waited_s,
            note=self._health.note,
            on_decision=self.metrics.observe_decision,
        )

    async def run(self) -> dict[str, Any]:
        """The whole run; returns its last facts.

        Raises Halt with a message for the user, or RunLost where the same run can go on from its newest checkpoint.
        """
        tasks: list[asyncio.Task[Any]] = []
        log_to(self._record.run_dir / "controller.log")
        for note in self._origin.notes:
            self._health.note(note)
        try:
            tasks += [self._verifying.start(), self._rollouts.start()]
            loops = (self._watch(), self._elastic.run(), self._held_out.run(), self._train())
            tasks += [asyncio.create_task(loop) for loop in loops]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except WorkerLost as error:
            is_lost = is_accident(error, num_ranks=self._config.learner.ranks)
            raise (RunLost if is_lost else Halt)(str(error)) from error
        finally:
            self._is_over = True  # a command may come until the process ends
            if self._syncing:
                tasks.append(self._syncing)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._learner.stop()
            await self._rollouts.stop()
            await self._verifying.stop()
        return self.facts()

    def facts(self) -> dict[str, Any]:
        """What the console and `bonfire status` show; the metrics endpoint shows the same."""
        self._refresh_gauges()
        return {
            **self._progress.newest,
            "stage": self._stage,
            "step": self._version,
            "steps": self._config.train.steps,
            "eta_s": self._progress.time_left_s(self._version),
            "elapsed_s": self._progress.elapsed_s,
            "groups": self._ledger.counts,
            "groups_per_step": self._config.train.groups_per_step,
            "num_begun": len(self._ledger.begun),
            "num_in_training": len(self._in_training),
            "verifier_queue": self._verifying.queue_depth,
            "rollout_workers": [worker.describe() for worker in self._rollouts.workers.values()],
            "verifier_workers": [worker.describe() for worker in self._verifying.workers.values()],
            **self._elastic.facts(),
            "unjudged_problems": self._unjudged.entries,
            "restarts": {"rollout": self._rollouts.num_restarts, "verifier": self._verifying.num_restarts},
            "recoveries": self._origin.num_recoveries,
            "learner_ranks": [{"pid": rank.pid, "node_id": rank.node_id} for rank in self._learner.ranks],
            "limited_by": limited_by(self._progress, self._rollouts, self._config.train.max_staleness),
            "is_stopping": self._stopping,
            "checkpoint": self._saver.facts(),
            "held_out": self._held_out.facts(),
            "events": self._health.events[-5:],
            "num_events": len(self._health.events),
            "metrics_port": self._metrics_port,
            "metrics_url": f"http://{self._metrics_host}:{self._metrics_port}/metrics",
            "run_dir": str(self._record.run_dir),
            "pid": os.getpid(),
        }

    def stop(self) -> None:
        """Finish the step whose batch is complete, write a checkpoint, end the run."""
        self._stopping = True
        self._health.note_ending()
        self._batches.changed.set()
        self._held_out.wake()

    def scale(self, rollout: int | None = None, verifier: int | None = None) -> dict[str, int]:
        """Have so many workers from now on, None: as many as now; returns the new numbers.

        Raises ValueError, one line, for nonsense and when the run is ending.
        """
        if self._stopping or self._is_over or self._stage not in ("starting", "training"):
            raise ValueError("the run is ending: it takes no more workers, and gives up all it has")
        return self._elastic.scale({"rollout": rollout, "verifier": verifier})

    async def _watch(self) -> None:
        """Keep the endpoint's gauges fresh, and say who is stuck when the learner starves."""
        begun_s: float | None = None
        while True:
            self._refresh_gauges()
            await asyncio.sleep(1.0)
            is_starting = begun_s is None and (self._stage != "training" or not self._rollouts.serving)
            if is_starting or self._learner.is_passing:
                continue
            if begun_s is None or self._held_out.goes_first:  # nobody is at fault before, or meanwhile
                begun_s = time.monotonic()
            self._health.check_starving(
                min(self._progress.since_last_step_s, time.monotonic() - begun_s),
                usual_s=self._progress.usual_step_s or 0.0,
                num_scored=self._ledger.counts["buffered"],
                num_queued=self._verifying.queue_depth,
                held=self._rollouts.leases_by_worker(),
            )

    async def _train(self) -> None:
        config, first = self._config.train, self._version
        self._held_out.begin_if_due(self._version)
        self._rollouts.announce(await self._learner.start(self._origin.checkpoint, self._record.run_dir))
        if self._learner.note:
            self._health.note(self._learner.note)
        self._stage = "training"
        logger.info("training from step %d on; metrics at port %d", self._version, self._metrics_port)
        while self._version < config.steps:
            begun_s, waited_s = time.perf_counter(), self._progress.waited_s
            batch = await self._feeder.next_batch(self._version, is_over=self._is_ending)
            if batch is None:
                break
            started_s, wait_s = time.perf_counter(), self._progress.waited_s - waited_s
            verify_s = min(self._progress.newest_wait_s, self._batches.judging_s(batch))
            groups = self._batches.groups(batch)
            self._in_training = set(batch)
            self._rollouts.top_up()
            *parts, last = self._batches.rest(batch)
            for part in parts:
                await self._learner.begin_step(part, num_groups=len(batch))
            step, published = await self._learner.train_step(last)
            learned_s = time.perf_counter()
            assert step.groups_B.tolist() == batch  # the rows of its weights
            self._health.check_parity(step.version, step.parity_by_worker)
            self._ledger.train(batch)
            self._batches.forget(batch)
            self._in_training = set()
            self._version = step.version
            is_evaluated = self._held_out.is_due_at(self._version)
            self._held_out.begin_if_due(self._version)
            if self._syncing:
                await self._syncing
            self._syncing = asyncio.create_task(self._sync(published, step.facts["stepped_at_s"]))
            if config.max_staleness == 0:
                await self._syncing
            in_vain = self._health.check_learned(step.version, groups, step.weights_BN)
            about = {
                "wait_s": wait_s,
                "verify_s": verify_s,
                "ahead_s": started_s - begun_s - wait_s,
                "learn_s": learned_s - started_s,
                "sync_s": self._sync_s,
                "steps_without_learning": self._health.num_steps_without_learning,
            }
            facts = self._progress.finish_step(step, about)
            self.metrics.observe_step(facts)
            self._health.check_staleness(step.version, step.facts)
            self._record.append_metrics(facts)
            await self._saver.write_trajectories(step.version)
            is_kept = is_evaluated and config.keep_best is not None
            if in_vain or is_kept or self._version % config.checkpoint_every == 0:
                await self._save()
            if in_vain:
                raise Halt(in_vain)
        if self._syncing:
            await self._syncing
        await self._save()
        await self._held_out.finish(self._version)
        self._record.drop_old(config.keep_checkpoints)
        self._health.note_end(self._version, self._version - first)
        verdict = self._held_out.verdict if self._version < config.steps else None
        self._stage = "stopped" if self._stopping else f"stopped: {verdict}" if verdict else "finished"
        logger.info("%s at step %d/%d", self._stage, self._version, config.steps)

    async def _save(self) -> None:
        await self._saver.save(self._version, self._ledger.to_json(), self._unjudged.entries)

    async def _sync(self, published: Published, stepped_at_s: float) -> None:
        """Bring a version to all engines; its seconds count from the end of the optimizer's step."""
        await self._rollouts.broadcast(published)
        self._sync_s = max(0.0, time.time() - stepped_at_s)  # the learner's clock may be another machine's
        self.metrics.observe_sync(self._sync_s)
        self._rollouts.top_up()

    def _is_ending(self) -> bool:
        """Whether no further step is to be made, whatever there is of its batch."""
        return self._stopping or self._held_out.verdict is not None

    def _num_admitted(self, served_version: int) -> int:
        if self._is_ending() or self._is_over or self._held_out.goes_first:
            return 0
        return admission.num_admitted(
            next_version=self._version + bool(self._in_training),
            served_version=served_version,
            outstanding=self._ledger.num_outstanding - len(self._in_training),
            groups_per_step=self._config.train.groups_per_step,
            max_staleness=self._config.train.max_staleness,
        )

    def _go_on(self) -> None:
        self._batches.changed.set()
        self._rollouts.top_up()

    def _note_lost(self, role: str, error: WorkerLost) -> None:
        self.metrics.observe_lost(role)
        self._batches.changed.set()  # a batch may have waited for what the lost worker held
        self._health.note_lost(error)

    def _note_news(self, message: str) -> None:
        self._batches.changed.set()  # a batch may have waited for what the worker held
        self._health.note(message)

    def _refresh_gauges(self) -> None:
        num_unjudged = len(self._unjudged.entries)
        refresh(self.metrics, self._ledger, self._rollouts, self._verifying, self._elastic, num_unjudged)

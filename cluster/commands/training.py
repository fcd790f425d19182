"""The training of a run: a controller, and another one in its place when it, or its learner, is lost."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.config.schema import RunConfig
from cluster.run import launch
from cluster.run.asked import Asked
from cluster.run.recovery import Origin, Recoveries, RunLost
from cluster.run_directory.checkpoints import usable_checkpoint
from cluster.run_directory.record import UNJUDGED_FILE, RunRecord, step_of
from cluster.run_directory.run_file import RunFile
from cluster.terminal.console import View, describe_held_out, describe_training
from verifiers.types import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What the training starts from."""

    problems: list[Problem]
    prompts: list[tuple[int, ...]]
    demonstrations: list[tuple[int, ...]]
    test_problems: list[Problem]
    asked: Asked
    """Those of them that it is evaluated on while it trains."""
    origin: Origin


def train_stage(
    config: RunConfig,
    view: View,
    record: RunRecord,
    start: Start,
    run_file: RunFile,
    *,
    ray_address: str,
    received: list[int],
    go_on: str,
) -> str:
    """The controller's last stage: `finished`, `stopped`, or `stopped: ` and why it ended by itself; `received` are
    signals, which stop it.

    A controller that loses its learner, or is lost itself, is followed by another. Raises RuntimeError where
    that does not help, or nobody asks for it any more.
    """
    origin = start.origin
    namespace = record.run_dir.absolute().name
    recoveries = Recoveries(config.train.max_recoveries)
    newest: dict[str, Any] = {}
    begun_at = record.newest_step()
    has_trained = False
    num_told = len(origin.notes)  # told already by who made them
    evaluated_at: int | None = None
    view.start("training", f"resuming from {origin.checkpoint}" if origin.checkpoint else "starting")

    def on_start(facts: dict[str, Any]) -> None:
        nonlocal newest
        newest = facts
        run_file.update(
            stage="training", address=ray_address, namespace=namespace, metrics_port=facts["metrics_port"]
        )

    def tell_events(facts: dict[str, Any]) -> None:
        nonlocal num_told
        events = facts["events"]
        num_new = min(max(0, facts["num_events"] - num_told), len(events))
        num_untold = max(0, facts["num_events"] - num_told - num_new)
        num_told = max(num_told, facts["num_events"])
        for event in events[len(events) - num_new :]:
            view.note(event.partition(" ")[2])
        if num_untold:
            view.note(f"{num_untold} more events before these are in {record.run_dir}/controller.log")

    def tell_evaluation(facts: dict[str, Any]) -> None:
        nonlocal evaluated_at
        held_out = facts["held_out"]
        if not held_out or not held_out["newest"] or held_out["newest"]["step"] == evaluated_at:
            return
        evaluated_at = held_out["newest"]["step"]
        view.tell(describe_held_out(held_out))
        run_file.update(best=held_out["best"])

    def on_facts(facts: dict[str, Any]) -> None:
        nonlocal newest, has_trained
        newest = facts
        tell_events(facts)
        tell_evaluation(facts)
        has_trained = has_trained or facts["stage"] == "training"
        share, headline, details = describe_training(facts)
        if received:
            headline += "   stopping after this step"
        view.update("training", share, headline, details)

    while True:
        try:
            facts = launch.train(
                config,
                run_dir=record.run_dir,
                namespace=namespace,
                problems=start.problems,
                prompts=start.prompts,
                demonstrations=start.demonstrations,
                asked=start.asked,
                origin=origin,
                on_start=on_start,
                on_facts=on_facts,
                should_stop=lambda: bool(received),
            )
            break
        except RunLost as loss:
            # One that never was up will not be the next time; one that was to stop has no need to go on. A learner may die
            # before its controller was asked a second time, with steps on disk.
            has_trained = has_trained or record.newest_step() > begun_at
            if received or not has_trained or newest["is_stopping"]:
                raise RuntimeError(f"{loss}; go on with: {go_on}") from loss
            run_file.update(stage="recovering")
            origin = _recover(loss, recoveries, record, origin, go_on)
            num_told = len(origin.notes)
            for note in origin.notes:
                view.note(note)
            config = _with_workers(config, newest["targets"])
    tell_events(facts)
    tell_evaluation(facts)
    view.finish(
        "training",
        _ended(facts)
        + (f", reward {facts['reward']:.3f}" if "reward" in facts else "")
        + (f", recoveries: {recoveries.num}" if recoveries.num else ""),
    )
    if num_set_aside := len(facts["unjudged_problems"]):
        view.note(
            f"problems set aside, since the verifier fails on them: {num_set_aside}, listed in "
            f"{record.run_dir / UNJUDGED_FILE}"
        )
    return str(facts["stage"])


def _ended(facts: Mapping[str, Any]) -> str:
    stage, _, why = str(facts["stage"]).partition(": ")
    return f"{stage} at step {facts['step']}/{facts['steps']}" + (f": {why}" if why else "")


def _recover(loss: RunLost, recoveries: Recoveries, record: RunRecord, origin: Origin, go_on: str) -> Origin:
    """What the next controller goes on from; its last note is the recovery in one line.

    Nothing of the lost one is left that could still write. Raises RuntimeError, or ValueError without a checkpoint
    that can be used.
    """
    notes: list[str] = []
    try:
        launch.wait_for_its_end()
        checkpoint = usable_checkpoint(record.run_dir, notes.append)
        step = step_of(checkpoint) if checkpoint else 0
        recoveries.begin(loss, step)
    except RuntimeError as error:
        raise RuntimeError(f"{error}; go on with: {go_on}") from loss
    source = f"checkpoint {checkpoint.name}" if checkpoint else "the beginning"
    notes.append(
        f"{loss}; recovery {recoveries.num}: goes on from {source}, {record.newest_step() - step} steps are done again"
    )
    # A newer checkpoint knows the problems as they are now, and which were set aside since.
    repaired = origin.repaired if checkpoint == origin.checkpoint else frozenset[str]()
    return dataclasses.replace(
        origin, checkpoint=checkpoint, repaired=repaired, num_recoveries=recoveries.num, notes=tuple(notes)
    )


def _with_workers(config: RunConfig, targets: Mapping[str, int]) -> RunConfig:
    """The same run with as many workers as the lost controller was to have, by command or by its policy."""
    rollout = config.rollout.model_copy(update={"workers": targets["rollout"]})
    verifier = config.verifier.model_copy(update={"workers": targets["verifier"]})
    return config.model_copy(update={"rollout": rollout, "verifier": verifier})

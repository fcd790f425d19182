"""What the benchmarks of a run have in common: the demo's settings, a run of its own, the machine's name."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.config.schema import RunConfig
from cluster.run import launch
from cluster.run.asked import Asked
from cluster.run.recovery import Origin

EXAMPLE = Path(__file__).parent.parent / "examples" / "countdown.toml"
NAMESPACE = "bench"


def machine() -> str:
    """As every result names it."""
    return (
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}"
    )


def train(
    config: RunConfig,
    run_dir: Path,
    *,
    namespace: str = NAMESPACE,
    checkpoint: Path | None = None,
    asked: Asked | None = None,
    on_facts: Callable[[dict[str, Any]], None] = lambda facts: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """A run on the Ray that is up, without console and evaluation; arguments as of `launch.train`."""
    from actors.tokens import encode_prompts, load_tokenizer
    from verifiers.problems.loading import load_problems

    problems = load_problems(config.problems, "train")
    launch.train(
        config,
        run_dir=run_dir,
        namespace=namespace,
        problems=problems,
        prompts=encode_prompts(load_tokenizer(config.model), problems),
        demonstrations=[],
        asked=asked or Asked(),
        origin=Origin(checkpoint=checkpoint),
        on_start=lambda facts: None,
        on_facts=on_facts,
        should_stop=should_stop,
    )


def measure(config: RunConfig, *, warm_up_steps: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A run in a directory that is thrown away: the facts of its steps after the warm-up, and what its first rollout worker
    told of itself from then on, twice a second, each with the moment, `at`.
    """
    seen: list[dict[str, Any]] = []

    def on_facts(facts: dict[str, Any]) -> None:
        workers = facts["rollout_workers"]
        if facts["step"] >= warm_up_steps and workers and "busy_s" in workers[0]:
            seen.append({**workers[0], "at": time.perf_counter()})

    with tempfile.TemporaryDirectory() as directory:
        train(config, Path(directory), on_facts=on_facts)
        lines = (Path(directory) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines][warm_up_steps:], seen

"""What low-rank adapters save of a learner's memory, time and checkpoints, and what they do not.

    .venv/bin/python -m benchmarks.lora MODEL > benchmarks/results/lora.json

MODEL is a checkpoint such as SmolLM2-135M (`make real-model`, runs/smollm2). Each case is a process of its own that
makes a learner in bfloat16 autocast, as `examples/gsm8k_cpu.toml` has it, and takes STEPS steps of one group: all
weights trained; adapters of rank 16 on all linear layers, frozen weights in float32 and in bfloat16, these published
alone too, and adapters on q_proj and v_proj. Told are the median step and its parts (the first step left out), peak of the resident set, bytes published, bytes of a
checkpoint and the seconds to write it. About 4 minutes, in one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.demo_run import machine
from benchmarks.learner import VOCABULARY, in_a_process, peak_bytes
from benchmarks.random_samples import judged_by, random_samples

STEPS = 3
THREADS = 1
SAMPLES, PROMPT, COMPLETION = 8, 100, 150
PARTS = ("forward_s", "backward_s", "optimizer_s", "publish_s", "step_s")
RANK = {"rank": 16, "alpha": 32}
CASES: dict[str, dict[str, Any]] = {
    "all weights": {},
    "adapters on all linear layers": {"lora": RANK},
    "the same, frozen weights in bfloat16": {"lora": RANK, "weights_dtype": "bfloat16"},
    "the same, published alone": {"lora": {**RANK, "publish": "adapter"}, "weights_dtype": "bfloat16"},
    "adapters on q_proj and v_proj": {"lora": {**RANK, "target": ["q_proj", "v_proj"]}},
}


def measure(model: str, settings: dict[str, Any]) -> dict[str, Any]:
    import numpy as np
    import torch

    from actors.heap import return_large_blocks
    from actors.types import ScoredGroup
    from learner.config import LearnerConfig
    from learner.learner import Learner
    from learner.objectives.config import ObjectiveConfig

    torch.set_num_threads(THREADS)
    return_large_blocks()
    config = LearnerConfig(
        dtype="bfloat16", publish_dtype="bfloat16", parity_versions=2, warmup_steps=0, **settings
    )
    learner = Learner(model, config, ObjectiveConfig(name="rloo"), 1.0, seed=0)
    seconds: dict[str, list[float]] = {part: [] for part in PARTS}
    for step in range(STEPS):
        samples = random_samples(
            step, samples=SAMPLES, prompt=PROMPT, completion=COMPLETION, vocabulary=VOCABULARY
        )
        rewards = np.random.default_rng(step).random(SAMPLES)
        facts = learner.train_step([ScoredGroup.of(samples, judged_by(rewards))]).facts
        for part in PARTS:
            seconds[part].append(facts[part])
    peak = peak_bytes()
    with tempfile.TemporaryDirectory() as directory:
        started = time.perf_counter()
        learner.save(directory)
        save_s = time.perf_counter() - started
        size = sum(path.stat().st_size for path in Path(directory).rglob("*") if path.is_file())
    return {
        "trained_parameters": sum(value.numel() for value in learner._policy.parameters.values()),
        **{part: statistics.median(values[1:]) for part, values in seconds.items()},
        "peak_bytes": peak,
        "published_bytes": sum(learner.manifest.bucket_sizes),
        "checkpoint_bytes": size,
        "save_s": save_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(THREADS)
    positions = PROMPT + SAMPLES * COMPLETION
    cases = []
    for name, settings in CASES.items():
        cases.append({"case": name, **in_a_process(measure, arguments.model, settings)})
        print(cases[-1], file=sys.stderr)
    result = {"machine": machine(), "threads": THREADS, "positions": positions, "cases": cases}
    json.dump(result, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()

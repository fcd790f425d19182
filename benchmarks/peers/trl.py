"""TRL's GRPOTrainer and this system on the same three workloads, in turns: ratio of seconds a step.

    .venv/bin/python -m benchmarks.peers.trl runs/countdown-base runs/smollm2 GSM8K_TRAIN.jsonl [--workloads countdown ...]
    .venv/bin/python -m benchmarks.peers.trl ... --workloads countdown --search 128 512 1024 [--dtype float32]

countdown: the demo's model, 32 x 32 samples of at most 14 tokens, float32. ragged: `benchmarks.ragged`, 8 x 16 of at most 512,
float32. gsm8k: SmolLM2-135M as in examples/gsm8k_cpu.toml, 8 x 16 of at most 200, bfloat16. Prompts, verifier, temperature and
samples a step are the same on both sides; TRL samples with transformers, since on a CPU there is nothing else for it.

TRL's environment is made on the first call (runs/peers-trl): this system's lock file, trl 1.16.0 and accelerate 1.15.0. Its
settings here: all cores, the whole model in the workload's dtype, no gradient checkpointing (its default, 20 % slower), no
reference model, `Workload.micro_batch` sequences for a backward pass. --search times TRL alone with other sizes of it, and in
another dtype. Ours: those of the demo, of `benchmarks.ragged` with max_staleness = 1, and of examples/gsm8k_cpu.toml. A step
of TRL counts from the end of the one before; the first from the start of training, model and data being loaded.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import ragged
from benchmarks.demo_run import EXAMPLE, NAMESPACE, machine, measure
from cluster.config.parse import load_config
from cluster.fleet import ray_cluster

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / "runs" / "peers-trl"
PACKAGES = ("trl==1.16.0", "accelerate==1.15.0")
WARM_UP_STEPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A config that both read, and how long each is measured."""

    path: Path
    overrides: list[str]
    our_steps: int
    trl_steps: int
    micro_batch: int
    """Sequences of TRL's backward pass."""


def make_environment() -> Path:
    """Its Python, made unless it is there."""
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / ".trl").exists():
        subprocess.run(
            ["bash", ROOT / "deploy" / "install-cpu.sh", ENVIRONMENT], check=True, stdout=sys.stderr
        )
        uv = str(ENVIRONMENT / "bin" / "uv")
        options = ["--quiet", "--no-deps", "--python", str(python)]
        subprocess.run([uv, "pip", "install", *options, *PACKAGES], check=True)
        (ENVIRONMENT / ".trl").touch()
    return python


def trl_seconds(python: Path, workload: Workload) -> tuple[list[float], float]:
    """Of each step, and the share of them in which it generates."""
    script = Path(__file__).with_name("trl_steps.py")
    command = [
        python,
        "-P",
        script,
        workload.path,
        workload.trl_steps,
        workload.micro_batch,
        *workload.overrides,
    ]
    done = subprocess.run([*map(str, command)], check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    times = json.loads(done.stdout.splitlines()[-1])
    ends_s = times["ends_s"]
    steps_s = [end - before for before, end in zip([0.0, *ends_s], ends_s, strict=False)]
    return steps_s, sum(times["generate_s"]) / ends_s[-1]


def search(python: Path, workload: Workload, micro_batches: list[int], dtype: str | None) -> dict[str, Any]:
    """Seconds of TRL's steps by the sequences of a backward pass."""
    overrides = workload.overrides if dtype is None else [*workload.overrides, f"rollout.dtype={dtype}"]
    result = {}
    for micro_batch in micro_batches:
        candidate = replace(workload, micro_batch=micro_batch, overrides=overrides)
        steps_s, generating = trl_seconds(python, candidate)
        result[f"micro_batch {micro_batch}"] = {"trl_step_s": steps_s, "trl_generating": generating}
    return result


def our_seconds(workload: Workload) -> list[float]:
    """Of each step after the warm-up."""
    config = load_config(
        workload.path, [*workload.overrides, f"train.steps={workload.our_steps + WARM_UP_STEPS}"]
    )
    steps, _ = measure(config, warm_up_steps=WARM_UP_STEPS)
    return [step["step_s"] for step in steps]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("countdown_model", help="runs/countdown-base, made by make demo")
    parser.add_argument("chat_model", help="runs/smollm2, made by make real-model")
    parser.add_argument("gsm8k", help="GSM8K's training rows as JSON lines")
    parser.add_argument("--workloads", nargs="+", default=["countdown", "ragged", "gsm8k"])
    parser.add_argument("--search", nargs="+", type=int, default=[], metavar="MICRO_BATCH")
    parser.add_argument("--dtype", help="of TRL's model in a search")
    arguments = parser.parse_args()
    python = make_environment()
    scratch = Path(tempfile.mkdtemp(prefix="trl"))
    ragged.make_config(scratch, [])
    rows = [
        "problems.source=files",
        f"problems.train_path={Path(arguments.gsm8k).absolute()}",
        "problems.test_fraction=0.01",
    ]
    workloads: dict[str, Callable[[], Workload]] = {
        "countdown": lambda: Workload(
            path=EXAMPLE,
            overrides=[f"model={arguments.countdown_model}", "metrics.port=0"],
            our_steps=20,
            trl_steps=5,
            micro_batch=512,
        ),
        "ragged": lambda: Workload(
            path=scratch / ragged.SETTINGS,
            overrides=["train.max_staleness=1"],
            our_steps=6,
            trl_steps=2,
            micro_batch=16,
        ),
        "gsm8k": lambda: Workload(
            path=ROOT / "examples" / "gsm8k_cpu.toml",
            overrides=[f"model={arguments.chat_model}", "metrics.port=0", *rows],
            our_steps=4,
            trl_steps=1,
            micro_batch=16,
        ),
    }
    result: dict[str, Any] = {"machine": machine(), "trl": PACKAGES}
    is_up = False
    for name in arguments.workloads:
        workload = workloads[name]()
        if arguments.search:
            result[name] = search(python, workload, arguments.search, arguments.dtype)
            continue
        if not is_up:
            ray_cluster.start_ray(
                load_config(workload.path, workload.overrides), address=None, namespace=NAMESPACE
            )
            is_up = True
        before = our_seconds(workload)
        theirs, generating = trl_seconds(python, workload)
        after = our_seconds(workload)
        ours = [*before, *after]
        result[name] = {
            "our_step_s": ours,
            "trl_step_s": theirs,
            "trl_generating": generating,
            "trl_over_ours": statistics.mean(theirs) / statistics.mean(ours),
        }
        print(name, json.dumps(result[name]), file=sys.stderr, flush=True)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

"""The `bonfire train` that is put to the test: started, and started again with --resume whenever it has ended."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from benchmarks.chaos.cluster import BIN, HEAD, Cluster
from benchmarks.chaos.processes import NODE_VARIABLE, Family

SETTINGS = Path(__file__).with_name("chaos.toml")
NAME = "run"
NUM_PROBLEMS = 10
MAX_FRUITLESS_STARTS = 8
QUESTION = "1 2 3 4 = 10 :"
"""Words of the tiny policy's vocabulary."""


class Driver:
    """One run. It is driven from the head's node; what it prints goes to `directory`."""

    def __init__(self, family: Family, cluster: Cluster, directory: Path, *, run_dir: Path) -> None:
        self._family = family
        self._cluster = cluster
        self._directory = directory
        self.run_dir = run_dir
        self.log = directory / "driver.log"
        self.process: subprocess.Popen[str] | None = None
        self.num_resumes = 0
        self._num_fruitless = 0
        self._best_step = -1

    def start(self) -> None:
        """Begin the run, or go on with it from its newest checkpoint."""
        if (self.run_dir / "config.toml").exists():
            what = ["--resume", str(self.run_dir)]
        else:
            what = [str(self._directory / "run.toml")]
        command = [str(BIN / "bonfire"), "train", *what, "--address", self._cluster.address]
        environment = {**self._cluster.environment, NODE_VARIABLE: HEAD}
        self.process = self._family.spawn(command, environment=environment, log=self.log)

    def mend(self, step: int) -> None:
        """Go on with a run that has ended at `step`. Raises RuntimeError when that leads nowhere, time and again."""
        if self.process is not None and self.process.poll() is None:
            return
        self._num_fruitless = 0 if step > self._best_step else self._num_fruitless + 1
        self._best_step = max(step, self._best_step)
        if self._num_fruitless >= MAX_FRUITLESS_STARTS:
            raise RuntimeError(f"the run does not go on: {self.last_words()}")
        if self.process is not None:
            self.num_resumes += 1
        self.start()

    def kill(self) -> bool:
        """SIGKILL; False where it does not run."""
        if self.process is None or self.process.poll() is not None:
            return False
        self.process.kill()
        self.process.wait()
        return True

    def send(self, number: signal.Signals) -> bool:
        """False where it does not run."""
        return self.process is not None and self._family.send(self.process.pid, number)

    def finish(self, timeout_s: float) -> int:
        """Ask it to stop as a user does, once; its exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout_s)

    def last_words(self) -> str:
        """The end of what it printed."""
        return self.log.read_text()[-2000:] if self.log.exists() else "it printed nothing"

    def prepare(self, *, reward: str) -> None:
        """Write the model, the problems and the settings of the run."""
        model = self._directory / "model"
        make_model(model)
        rows = [
            {"task_id": number, "text": QUESTION, "code": "1", "test_list": ["assert min(2, 1) == 1"]}
            for number in range(NUM_PROBLEMS)
        ]
        problems = self._directory / "train.jsonl"
        problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings: dict[str, Any] = tomllib.loads(SETTINGS.read_text())
        settings |= {"model": str(model), "run_dir": str(self.run_dir)}
        settings["problems"]["train_path"] = str(problems)
        settings["verifier"]["reward"] = reward
        (self._directory / "run.toml").write_text(tomli_w.dumps(settings))


def make_model(path: Path) -> None:
    """A countdown policy of random weights whose next-token distribution is far from uniform."""
    import torch

    from learner.sft import build_model, build_tokenizer
    from learner.supervised.config import SftConfig

    shutil.rmtree(path, ignore_errors=True)
    torch.manual_seed(0)
    # vLLM's CPU attention needs 32 channels a head.
    model = build_model(SftConfig(hidden_size=64, num_heads=2, num_layers=2, intermediate_size=96))
    with torch.no_grad():
        model.lm_head.weight.normal_(std=0.25)
    model.save_pretrained(path)
    build_tokenizer().save_pretrained(path)

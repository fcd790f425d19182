"""A child process that serves a model before and after an update: there is one vLLM engine to a process.

    python -m tests.shared.serving DIRECTORY

DIRECTORY has `model`, `request.json` and the buckets' bytes; `answer.json` is written beside them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from actors.config import RolloutConfig
from actors.environment import engine_environment
from actors.types import Lease, Piece, SampleGroup
from actors.weights.manifest import TensorEntry, WeightManifest, views
from tests.shared.paths import ROOT

PROMPTS = ((5, 9, 33, 21, 60, 4, 8, 77, 12, 13, 14, 2), (7, 50, 31))
SAMPLES, MAX_TOKENS = 4, 24
TIMEOUT_S = 240.0


class Refused(Exception):
    """vLLM does not serve the model; the message is its own."""


def serve(
    directory: Path, manifest: WeightManifest, buckets: tuple[np.ndarray, ...], settings: dict[str, Any]
) -> tuple[list[list[SampleGroup]], list[int]]:
    """Groups sampled from `directory / "model"` as version 0, then under the buckets as version 1, and both fingerprints.

    In between, the engine has other weights for a moment.

    Raises Refused.
    """
    for number, bucket in enumerate(buckets):
        bucket.tofile(directory / f"bucket-{number}")
    request = {"manifest": asdict(manifest), "settings": settings}
    (directory / "request.json").write_text(json.dumps(request))
    process = subprocess.run(
        [sys.executable, "-m", "tests.shared.serving", str(directory)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if process.returncode:
        raise Refused(_reason(process.stdout))
    answer = json.loads((directory / "answer.json").read_text())
    versions = [[_group(number, one) for number, one in enumerate(groups)] for groups in answer["versions"]]
    return versions, answer["fingerprints"]


def _reason(output: str) -> str:
    """The first error that is the cause of others."""
    errors = re.findall(r"(?:^|\]:? )(\w*(?:Error|Exception): .*[^:\s])$", output, re.MULTILINE)
    return (errors or ["ended without a word"])[0]


def _group(number: int, samples: list[dict[str, Any]]) -> SampleGroup:
    token_ids = [one["token_ids"] for one in samples]
    flat = np.concatenate(token_ids).astype(np.int32)
    return SampleGroup(
        group=number,
        problem_id=str(number),
        workers=("engine",) * len(samples),
        seed=0,
        prompt_token_ids=np.array(PROMPTS[number], np.int32),
        offsets=np.cumsum([0, *map(len, token_ids)]).astype(np.int32),
        token_ids=flat,
        logprobs=np.concatenate([one["logprobs"] for one in samples]).astype(np.float32),
        versions=np.zeros(len(flat), np.int32),
        texts=("",) * len(samples),
        finish_reasons=("stop",) * len(samples),
    )


def _main(directory: Path) -> None:
    request = json.loads((directory / "request.json").read_text())
    config = RolloutConfig(
        samples_per_prompt=SAMPLES,
        max_tokens=MAX_TOKENS,
        max_model_len=96,
        max_num_seqs=16,
        kv_cache_mib=32,
        **{"dtype": "float32", **request["settings"]},
    )
    os.environ.update(engine_environment(config))
    from actors.engine import Engine

    manifest = WeightManifest(
        entries=tuple(
            TensorEntry(**{**entry, "shape": tuple(entry["shape"])})
            for entry in request["manifest"]["entries"]
        ),
        bucket_sizes=tuple(request["manifest"]["bucket_sizes"]),
    )
    buckets = [
        np.fromfile(directory / f"bucket-{number}", np.uint8) for number in range(len(manifest.bucket_sizes))
    ]
    engine = Engine(str(directory / "model"), config, stop_token_ids=[1])
    fingerprints = [engine.fingerprint().result(TIMEOUT_S)]
    versions = [_sample(engine, 0, config.samples_per_prompt)]
    # The first update is loaded whole by the model's own loader; what it teaches is used in the next one.
    engine.update_weights(1, manifest, halves(manifest, buckets)).result(TIMEOUT_S)
    fingerprints.append(engine.update_weights(2, manifest, buckets).result(TIMEOUT_S))
    versions.append(_sample(engine, 1, config.samples_per_prompt))
    engine.shutdown()
    (directory / "answer.json").write_text(json.dumps({"versions": versions, "fingerprints": fingerprints}))
    sys.stdout.flush()
    os._exit(0)  # taking vLLM apart takes as long as starting it, and prints what it leaked


def halves(manifest: WeightManifest, buckets: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Other weights: half of each."""
    other = [bucket.copy() for bucket in buckets]
    for _, tensor in views(manifest, other):
        tensor.mul_(0.5)
    return other


def _sample(engine: Any, version: int, num_samples: int) -> list[list[dict[str, Any]]]:
    leases = [
        Lease(
            piece=Piece(10 * version + number, 0, num_samples),
            problem_id="",
            prompt_token_ids=prompt,
            seed=100 * version + 10 * number,
        )
        for number, prompt in enumerate(PROMPTS)
    ]
    return [
        [
            {"token_ids": list(one.token_ids), "logprobs": list(one.logprobs.logprobs)}
            for one in future.result(TIMEOUT_S)
        ]
        for future in engine.sample(leases)
    ]


if __name__ == "__main__":
    _main(Path(sys.argv[1]))

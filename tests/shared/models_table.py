"""The table of docs/models.md: what is measured of an architecture, and how it is read and written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from actors.types import SampleGroup
from actors.weights.manifest import views
from learner.config import LearnerConfig
from learner.learner import Learner
from learner.model.causal_lm import load_model
from learner.model.logprobs import token_logprobs
from learner.model.packing import choose_packing
from learner.objectives.config import ObjectiveConfig
from learner.step.batch import collect, micro_batches
from tests.shared.architectures import ARCHITECTURES, Architecture
from tests.shared.paths import ROOT
from tests.shared.serving import Refused, serve
from tests.shared.tiny_model import completions, make_group

MODELS_PAGE = ROOT / "docs" / "models.md"
COLUMNS = (
    "architecture",
    "loads",
    "packed as unpacked",
    "trains",
    "names and checkpoint",
    "served",
    "parity after an update",
)
TOLERANCE = 1e-5
PARITY = {"float32": 1e-4, "bfloat16": 0.1}
"""Of an engine's log-probs with the learner's: the largest difference in float32, the mean one in bfloat16."""
_BEGIN, _END = "<!-- written by make models -->", "<!-- end -->"


def groups() -> list[Any]:
    """Two groups of sequences of unequal lengths, up to 20 positions: longer than the windows of 8."""
    return [make_group(number, samples=3, prompt_length=5, lengths=(4, 16)) for number in range(2)]


def reference_of(directory: Path) -> Any:
    """transformers' own forward pass, with its own attention."""
    return AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()


@torch.no_grad()
def logprobs_alone(model: Any, prompt: np.ndarray, completion: torch.Tensor) -> torch.Tensor:
    ids = torch.cat([torch.from_numpy(prompt.astype(np.int64)), completion])
    logits_LV = model(input_ids=ids[None], use_cache=False).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits_LV, -1).gather(-1, completion[:, None])[:, 0]


@torch.no_grad()
def check_packing(architecture: Architecture, directory: Path) -> float:
    """Largest difference of log-probs from those of transformers, a sequence at a time; relative beyond 1.

    Asserts that it is small, and that it would not be so if sequences saw each other.
    """
    policy, reference = load_model(str(directory)), reference_of(directory)
    packing = choose_packing(policy, str(directory), share_prompts=True)
    assert packing == architecture.packing
    samples = [group.samples for group in groups()]
    expected = [
        logprobs_alone(reference, group.prompt_token_ids, completion)
        for group in samples
        for completion in completions(group)
    ]
    largest = 0.0
    sequences = collect(samples)
    for batch in micro_batches(sequences, np.arange(sequences.num_samples), 4096, packing):
        logprobs_T = token_logprobs(policy, batch, 1.0)
        for sequence in batch.sequence_ids.unique().tolist():
            ours = logprobs_T[batch.sequence_ids == sequence]
            differences = (ours - expected[sequence]).abs() / expected[sequence].abs().clamp(min=1)
            largest = max(largest, float(differences.max()))
    assert largest <= TOLERANCE
    assert torch.cat(expected).std() > 0.3  # nats
    first, second = completions(samples[0])[:2]
    before = torch.cat([first, torch.from_numpy(samples[0].prompt_token_ids.astype(np.int64))]).numpy()
    assert (logprobs_alone(reference, before, second) - expected[1]).abs().max() > 1000 * TOLERANCE
    return largest


def make_learner(directory: Path, publish_dtype: str = "float32") -> Learner:
    config = LearnerConfig(learning_rate=1e-2, publish_dtype=publish_dtype)
    return Learner(str(directory), config, ObjectiveConfig(num_select=2), 1.0, seed=0)


def check_training(learner: Learner, moved: Callable[[str], bool] = lambda name: True) -> None:
    """One step; asserts that it moves every parameter, or those of the names that are to be moved."""
    before = {name: value.detach().clone() for name, value in learner._policy.parameters.items()}
    result = learner.train_step(groups())
    assert np.isfinite(result.facts["loss"]) and result.facts["grad_norm"] > 0
    still = [name for name, value in learner._policy.parameters.items() if torch.equal(value, before[name])]
    assert not [name for name in still if moved(name)]


def check_names(learner: Learner, directory: Path, scratch: Path) -> None:
    """Asserts that what is published has the names and values of a checkpoint, which is read back by all."""
    assert stored_by(learner).keys() == load_file(directory / "model.safetensors").keys()
    learner.save(scratch)
    published, saved = stored_by(learner), load_file(scratch / "model" / "model.safetensors")
    assert published.keys() == saved.keys()
    for name, tensor in published.items():
        assert torch.equal(tensor, saved[name].to(tensor.dtype)), name
    ids = torch.arange(2, 22)[None]
    with torch.no_grad():
        ours = learner._policy.model(input_ids=ids, use_cache=False).logits
        theirs = reference_of(scratch / "model")(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(ours, theirs, rtol=TOLERANCE, atol=10 * TOLERANCE)
    other = make_learner(directory)
    assert other.published.fingerprint != learner.published.fingerprint
    other.load(scratch)
    assert other.published.fingerprint == learner.published.fingerprint
    for name, value in other._policy.parameters.items():
        assert torch.equal(value, learner._policy.parameters[name])


def stored_by(learner: Learner) -> dict[str, torch.Tensor]:
    return dict(views(learner.manifest, learner.published.buckets))


@dataclass(frozen=True, slots=True)
class Served:
    """Differences of the engine's log-probs from the learner's before and after an update, [tokens] each."""

    before: np.ndarray
    after: np.ndarray


def check_serving(architecture: Architecture, directory: Path, scratch: Path) -> Served:
    """A real engine on the checkpoint, then a step's weights. Asserts fingerprints and parity; raises Refused."""
    dtype = architecture.engine.get("dtype", "float32")
    learner = make_learner(directory, dtype)
    fingerprints = [learner.published.fingerprint]
    check_training(learner)
    fingerprints.append(learner.published.fingerprint)
    shutil.copytree(directory, scratch / "model")
    versions, served = serve(scratch, learner.manifest, learner.published.buckets, dict(architecture.engine))
    assert served == fingerprints
    before, after = (_differences(learner, version, samples) for version, samples in enumerate(versions))
    for differences in (before, after):
        assert (differences.max() if dtype == "float32" else differences.mean()) <= PARITY[dtype]
    stale = _differences(learner, 0, versions[1])
    assert stale.mean() > 10 * after.mean()  # the update is seen
    return Served(before, after)


def _differences(learner: Learner, version: int, samples: list[SampleGroup]) -> np.ndarray:
    sequences = collect(samples)
    batches = list(micro_batches(sequences, np.arange(sequences.num_samples), 4096, learner.packing))
    logprobs = learner._policy.logprobs_under(learner._parity._kept[version], batches)
    pairs = zip(batches, logprobs, strict=True)
    return torch.cat([(ours - batch.behaviour_logprobs).abs() for batch, ours in pairs]).numpy()


def measure(architecture: Architecture, directory: Path, scratch: Path) -> list[str]:
    """The cells of the architecture's row. Asserts all that they say."""
    packed = check_packing(architecture, directory)
    learner = make_learner(directory)
    check_training(learner)
    check_names(learner, directory, scratch / "checkpoint")
    placing = "prompts shared" if architecture.packing == "shared" else "a row each"
    try:
        result = check_serving(architecture, directory, scratch)
    except Refused as error:
        serving, parity = [f"no: `{error}`", "not measured"]
    else:
        dtype = architecture.engine.get("dtype", "float32")
        others = [
            f"`{name} = {str(value).lower()}`"
            for name, value in architecture.engine.items()
            if name != "dtype"
        ]
        serving = " with ".join(["yes" if dtype == "float32" else f"in {dtype} only", *others])
        parity = f"{result.after.max():.0e}" if dtype == "float32" else f"mean {result.after.mean():.0e}"
    return ["yes", f"{placing}, {packed:.0e}", "yes", "yes", serving, parity]


def rows_of(page: str) -> dict[str, list[str]]:
    """Architecture -> the other cells of its row."""
    table = page.partition(_BEGIN)[2].partition(_END)[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return {name: cells for name, *cells in rows[1:]}


def with_rows(page: str, measured: dict[str, list[str]]) -> str:
    """The page with these rows in place of those that it has of the same architectures."""
    rows = rows_of(page) | measured
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += [
        "| " + " | ".join([one.name, *rows[one.name]]) + " |" for one in ARCHITECTURES if one.name in rows
    ]
    start, _, rest = page.partition(_BEGIN)
    return start + "\n".join([_BEGIN, "", *lines, "", _END]) + rest.partition(_END)[2]

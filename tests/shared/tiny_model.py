"""A Llama small enough to check by hand, groups of its samples, and slow float64 transcriptions.

Tests import it as `tests.shared.tiny_model` (pytest runs with the repository root on its path).
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from actors.types import Demonstration, SampleGroup, ScoredGroup

VOCABULARY_SIZE = 23


@cache
def _directory() -> tempfile.TemporaryDirectory[str]:
    directory: tempfile.TemporaryDirectory[str] = tempfile.TemporaryDirectory(prefix="tiny-llama-")
    build_model().save_pretrained(directory.name)
    Path(directory.name, "tokenizer.json").write_text("{}")
    return directory


def model_path() -> str:
    """Directory of the tiny model, written once a process and removed at its end."""
    return _directory().name


def build_model(**settings) -> LlamaForCausalLM:
    """Weights large enough that log-probs differ by nats."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            **{
                "vocab_size": VOCABULARY_SIZE,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "max_position_embeddings": 512,
                "tie_word_embeddings": False,
                "initializer_range": 0.2,
            }
            | settings
        )
    )
    return model.eval()


def reference_model(parameters: dict[str, torch.Tensor] | None = None) -> LlamaForCausalLM:
    """The tiny model in float64, with other weights if given."""
    model = LlamaForCausalLM.from_pretrained(
        model_path(), dtype=torch.float64, attn_implementation="eager"
    ).eval()
    if parameters is not None:
        model.load_state_dict({name: tensor.double() for name, tensor in parameters.items()})
    return model


def make_norms_exact(policy: torch.nn.Module) -> None:
    """Of a policy in float64: transformers computes its norms in float32 whatever the model's dtype."""
    for part in [*policy.modules()]:
        for name, child in part.named_children():
            if type(child).__name__ == "LlamaRMSNorm":
                norm = torch.nn.RMSNorm(len(child.weight), eps=child.variance_epsilon, dtype=torch.float64)
                norm.weight = child.weight
                setattr(part, name, norm)


def completions(group: SampleGroup) -> list[torch.Tensor]:
    return [
        torch.from_numpy(group.token_ids[start:end].astype(np.int64))
        for start, end in zip(group.offsets[:-1], group.offsets[1:], strict=True)
    ]


def slow_logprobs(model: LlamaForCausalLM, prompt: np.ndarray, completion: torch.Tensor, temperature: float):
    """One sequence, no packing, the whole softmax: differentiable log-probs of the completion's tokens."""
    prompt_ids = torch.from_numpy(prompt.astype(np.int64))
    logits = model(input_ids=torch.cat([prompt_ids, completion])[None]).logits[0]
    log_softmax = torch.log_softmax(logits[len(prompt) - 1 : -1] / temperature, dim=-1)
    return torch.stack([log_softmax[t, token] for t, token in enumerate(completion)])


def slow_loss(model: LlamaForCausalLM, groups, weights_BN, temperature: float, term) -> torch.Tensor:
    """-(1/B) sum_b sum_i term(w, log-probs of the policy [t], log-probs of the sampler [t]), sample by sample."""
    loss = torch.zeros((), dtype=torch.float64)
    for group, weights_N in zip(groups, weights_BN, strict=True):
        offsets, behaviour = group.samples.offsets, torch.from_numpy(group.samples.logprobs).double()
        for i, completion in enumerate(completions(group.samples)):
            logprobs = slow_logprobs(model, group.samples.prompt_token_ids, completion, temperature)
            loss = loss - term(float(weights_N[i]), logprobs, behaviour[offsets[i] : offsets[i + 1]])
    return loss / len(groups)


def slow_imitation_loss(model: LlamaForCausalLM, groups, temperature: float) -> torch.Tensor:
    """-(1/B) sum_b log pi(y*_b)."""
    loss = torch.zeros((), dtype=torch.float64)
    for group in groups:
        demonstration = torch.from_numpy(group.demonstration.token_ids).long()
        loss = loss - slow_logprobs(model, group.samples.prompt_token_ids, demonstration, temperature).sum()
    return loss / len(groups)


def make_group(
    number: int,
    *,
    samples: int = 4,
    prompt_length: int = 5,
    lengths: tuple[int, int] = (1, 9),
    worker: str = "rollout-0",
    version: int = 0,
    model: LlamaForCausalLM | None = None,
    temperature: float = 1.0,
    rewards: np.ndarray | None = None,
) -> ScoredGroup:
    """Random tokens with the log-probs `model` gives them (the tiny model's own by default)."""
    rng = np.random.default_rng(number)
    token_counts = rng.integers(lengths[0], lengths[1] + 1, samples)
    offsets = np.concatenate([[0], np.cumsum(token_counts)]).astype(np.int32)
    token_ids = rng.integers(0, VOCABULARY_SIZE, offsets[-1]).astype(np.int32)
    prompt = rng.integers(0, VOCABULARY_SIZE, prompt_length).astype(np.int32)
    group = SampleGroup(
        group=number,
        problem_id=f"problem-{number}",
        workers=(worker,) * samples,
        seed=number,
        prompt_token_ids=prompt,
        offsets=offsets,
        token_ids=token_ids,
        logprobs=np.zeros(offsets[-1], np.float32),
        versions=np.full(offsets[-1], version, np.int32),
        texts=("",) * samples,
        finish_reasons=("stop",) * samples,
    )
    with torch.no_grad():
        reference = model if model is not None else _reference()
        logprobs = torch.cat(
            [slow_logprobs(reference, prompt, completion, temperature) for completion in completions(group)]
        )
    if rewards is None:
        rewards = rng.random(samples)
    return score(replace(group, logprobs=logprobs.float().numpy()), rewards)


def score(group: SampleGroup, rewards: np.ndarray) -> ScoredGroup:
    return ScoredGroup(
        samples=group,
        scores=rewards.astype(np.float64),
        rewards=rewards.astype(np.float64),
        statuses=("ok",) * group.num_samples,
        answers=(None,) * group.num_samples,
        latencies_s=np.zeros(group.num_samples, np.float32),
    )


def demonstrate(group: ScoredGroup, seed: int = 0, length: int = 6) -> ScoredGroup:
    """The group with an expert's completion of random tokens, judged better than about half of the samples."""
    token_ids = np.random.default_rng([group.samples.group, seed]).integers(0, VOCABULARY_SIZE, length)
    score = float(np.median(group.scores))
    return replace(group, demonstration=Demonstration(token_ids=token_ids.astype(np.int32), score=score))


def shift_behaviour(group: ScoredGroup, change: np.ndarray | float) -> ScoredGroup:
    """The group as sampled with log-probs that differ by `change` (per token, or a number)."""
    logprobs = (group.samples.logprobs + change).astype(np.float32)
    return replace(group, samples=replace(group.samples, logprobs=logprobs))


@cache
def _reference() -> LlamaForCausalLM:
    return reference_model()

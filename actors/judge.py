"""A language model as verifier: self-verification, after *Sample, Scrutinize and Scale* (arXiv 2502.01839).

The judge is asked `votes` times, at a temperature, whether a candidate is correct. Its score is

    number of votes for it / number of votes that could be read

which is an estimate, in steps of 1/votes, of the probability that the judge accepts the candidate. The
judge may be the policy's base model; its weights are never updated. The paper's comparison of candidates with
each other is left out: a score must depend on its own candidate only.

An unread vote (no verdict in the text, or cut off before it) is the judge's fault. It counts for nobody; but a
candidate of which no vote could be read gets no score made up for it: it is `refused`, as confusing the judge
must not pay. If no vote of a whole group could be read, the judge or the patterns are at fault, and that is
an error (`crashed`).

Votes follow from problem, candidate and vote number alone, to the engine's rounding: neither the order of a
group nor the worker matters. Equal candidates get equal votes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from actors.config import RolloutConfig
from actors.tokens import decode, encode_prompts, load_tokenizer, stop_token_ids
from actors.types import Lease, Piece
from verifiers.models.input import control_tokens, fill
from verifiers.models.judge_config import GPUS_VARIABLE, JudgeConfig
from verifiers.types import REFUSED, Problem, Verdict

if TYPE_CHECKING:
    from actors.engine import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What the judgements of one candidate said."""

    num_accepted: int
    num_rejected: int
    num_unread: int

    @property
    def score(self) -> float | None:
        """Share of the readable votes that accept; None without any."""
        num_read = self.num_accepted + self.num_rejected
        return self.num_accepted / num_read if num_read else None


def read_vote(text: str, accept: re.Pattern[str], reject: re.Pattern[str]) -> bool | None:
    """True for an acceptance, False for a rejection, None if neither can be read.

    A judge weighs before it decides: of all matches the one that ends last counts, and of two that end
    together the longer one ("incorrect" over "correct").
    """
    ends = [
        max(((match.end(), -match.start()) for match in pattern.finditer(text)), default=(-1, 0))
        for pattern in (accept, reject)
    ]
    return None if ends[0] == ends[1] else ends[0] > ends[1]


def count_votes(texts: Sequence[str], accept: re.Pattern[str], reject: re.Pattern[str]) -> Tally:
    """The tally of one candidate's judgements."""
    votes = [read_vote(text, accept, reject) for text in texts]
    return Tally(
        num_accepted=votes.count(True), num_rejected=votes.count(False), num_unread=votes.count(None)
    )


def first_seed(problem: Problem, completion: str) -> int:
    """Seed of a candidate's first vote; vote i has the i-th after it."""
    asked = json.dumps([problem.id, problem.prompt, completion]).encode()
    return int.from_bytes(hashlib.sha256(asked).digest()[:6])


def check_problem(problem: Problem) -> None:
    """A judge judges any problem: it needs no truth."""


class Judge:
    """Judges whole groups with an engine of its own, on the GPU that Ray gave this process, else on the CPU.

    `engine`: one that is up already, of `engine_settings(config)`. Raises ValueError, in one line, for a model
    without a tokenizer or stop token.
    """

    def __init__(self, config: JudgeConfig, *, timeout_s: float, engine: Engine | None = None) -> None:
        from actors.engine import Engine

        self._config = config
        self._tokenizer = load_tokenizer(config.model)
        self._control_tokens = control_tokens(self._tokenizer)
        self._accept, self._reject = re.compile(config.accept), re.compile(config.reject)
        self._requests = itertools.count()
        self._engine = engine or Engine(
            config.model,
            engine_settings(config),
            stop_token_ids=stop_token_ids(config.model, self._tokenizer),
        )

    def verify_batch(self, problem: Problem, completions: Sequence[str]) -> list[Verdict]:
        """A verdict for each completion, in order; score and reward are the same.

        Raises RuntimeError if no judgement of the group says anything that accept or reject match.
        """
        judgements = self._judgements(problem, completions)
        tallies = {
            completion: count_votes(texts, self._accept, self._reject)
            for completion, texts in judgements.items()
        }
        num_unread = sum(tally.num_unread for tally in tallies.values())
        num_votes = self._config.votes * len(tallies)
        if tallies and num_unread == num_votes:
            (text, *_), *_ = judgements.values()
            raise RuntimeError(
                f"the judge {self._config.model!r} said nothing that judge.accept or judge.reject match, in "
                f"{num_votes} judgements; one of them ends: {text[-200:]!r}"
            )
        scores = {completion: tally.score for completion, tally in tallies.items()}
        return [_verdict(scores.get(completion)) for completion in completions]

    def close(self) -> None:
        """End the engine."""
        self._engine.shutdown()

    def _judgements(self, problem: Problem, completions: Sequence[str]) -> dict[str, list[str]]:
        """The texts about each different completion that can be shown to the judge, all sampled together."""
        shown = sorted({text for text in completions if not self._control_tokens.search(text)})
        asks = [
            replace(
                problem,
                prompt=fill(self._config.prompt_template, prompt=problem.prompt, completion=completion),
            )
            for completion in shown
        ]
        max_prompt_tokens = self._config.max_model_len - self._config.max_tokens
        leases = {
            completion: Lease(
                piece=Piece(next(self._requests), 0, self._config.votes),
                problem_id=problem.id,
                prompt_token_ids=prompt,
                seed=first_seed(problem, completion),
                temperature=self._config.temperature,
            )
            for completion, prompt in zip(
                shown, encode_prompts(self._tokenizer, asks, checks_text=False), strict=True
            )
            if len(prompt) <= max_prompt_tokens
        }
        futures = self._engine.sample(list(leases.values()))
        return {
            completion: self._texts(future.result())
            for completion, future in zip(leases, futures, strict=True)
        }

    def _texts(self, samples: Sequence[Any]) -> list[str]:
        return decode(self._tokenizer, [list(sample.token_ids) for sample in samples])


def engine_settings(config: JudgeConfig) -> RolloutConfig:
    """A vote is a sample: the rollout settings under which an engine judges, on what Ray gave this process."""
    num_gpus = float(os.environ.get(GPUS_VARIABLE) or 1) if os.environ.get("CUDA_VISIBLE_DEVICES") else 0
    return RolloutConfig(
        samples_per_prompt=config.votes,
        temperature=config.temperature,
        max_tokens=config.max_tokens,
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs,
        kv_cache_mib=config.kv_cache_mib,
        dtype=config.dtype,
        num_cpus=int(os.environ.get("OMP_NUM_THREADS") or 1),
        num_gpus=min(1, num_gpus),
    )


def _verdict(score: float | None) -> Verdict:
    return REFUSED if score is None else Verdict(score=score, reward=score)

"""A reward model as verifier: any sequence classifier of transformers.

Score and reward are what `classifier_head` makes of the logits, and these are what transformers computes for
the candidate alone, to rounding:

- Nothing is cut. A candidate whose input is longer than the model takes, is empty, or spells one of the
  tokenizer's control tokens (`input.control_tokens`) is `refused`.
- Sequences are sorted by length, padded on the right and masked. Whether this model's scores survive
  padding is tried out before it judges anything.
- Equal inputs of a group are scored once, so that equal candidates tie exactly; the batches depend on which
  inputs a group has, not on their order. The same candidate in another group may differ by rounding.

Shapes: `S` sequences of a batch, `T` positions, `C` labels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verifiers.models.classifier_head import find_head
from verifiers.models.input import control_tokens, fill
from verifiers.models.reward_model_config import RewardModelConfig
from verifiers.types import REFUSED, Problem, Verdict

TRAINING_RECORD = "bonfire_verifier.json"
"""Beside a model of our own: its `template` is what the model was trained on."""

_PADDING_TOLERANCE = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.25}
"""Of a logit, relative to its size where that exceeds 1: above rounding, below what another token's logit differs by."""


@dataclass(frozen=True, slots=True, order=True)
class _Sequence:
    """Token ids of one input, and the segment of each where the model has segments."""

    token_ids: tuple[int, ...]
    segments: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.token_ids)


def check_problem(problem: Problem) -> None:
    """A reward model judges any problem: it needs no truth."""


class RewardModel:
    """Scores whole groups; a prompt and a candidate are all it sees.

    Raises ValueError, in one line, for a model that cannot be loaded, was not trained as a classifier, or
    cannot be batched. A score that is not finite raises RuntimeError: it is the model's fault.
    """

    def __init__(self, config: RewardModelConfig, *, timeout_s: float) -> None:
        self._config = config
        self._device = _find_device(config.device)
        self._tokenizer, self._model = _load(config, self._device)
        self._pad_token_id: int | None = self._model.config.get_text_config().pad_token_id
        self._num_embeddings = self._model.get_input_embeddings().num_embeddings
        if len(self._tokenizer) > self._num_embeddings:
            raise ValueError(
                f"reward_model.model = {config.model!r}: its tokenizer has {len(self._tokenizer)} tokens, the model "
                f"{self._num_embeddings}: they do not belong together; save both into one directory"
            )
        self._encode = _input_form(config, self._tokenizer)
        self._control_tokens = control_tokens(self._tokenizer)
        self._max_tokens = _length_limit(config, self._tokenizer, self._model)
        self._head = find_head(config, self._model.config)
        self._check_padding()

    def verify_batch(self, problem: Problem, completions: Sequence[str]) -> list[Verdict]:
        """A verdict for each completion, in order; score and reward are the same."""
        safe = [i for i, text in enumerate(completions) if not self._control_tokens.search(text)]
        sequences = self._encode(problem.prompt, [completions[i] for i in safe])
        fitting = {
            i: sequence
            for i, sequence in zip(safe, sequences, strict=True)
            if 0 < len(sequence) <= self._max_tokens
        }
        logits = self._logits(set(fitting.values()))
        verdicts = [REFUSED] * len(completions)
        for i, sequence in fitting.items():
            score = self._head.score(logits[sequence])
            if not math.isfinite(score):
                raise RuntimeError(
                    f"reward model {self._config.model!r} gives {score} to candidate {i} of problem {problem.id!r}: "
                    "try reward_model.dtype = 'float32'"
                )
            verdicts[i] = Verdict(score=score, reward=score)
        return verdicts

    def _logits(self, sequences: Collection[_Sequence]) -> dict[_Sequence, list[float]]:
        """The C logits of each sequence."""
        return {
            sequence: row
            for batch in _batches(sequences, self._config.batch_tokens)
            for sequence, row in zip(batch, self._forward(batch), strict=True)
        }

    def _forward(self, batch: Sequence[_Sequence]) -> list[list[float]]:
        """[S][C] logits of one padded forward pass."""
        import torch

        pad = self._pad_token_id
        if pad is None:
            # Decoders find a sequence's last token by its not being padding: without a padding token of its own,
            # the model gets one that none of these sequences has.
            present = set().union(*(sequence.token_ids for sequence in batch))
            pad = next(token for token in range(self._num_embeddings) if token not in present)
            self._model.config.get_text_config().pad_token_id = pad
        num_positions = max(map(len, batch))

        def padded(rows: Sequence[Sequence[int]], value: int) -> Any:
            """[S, T]"""
            filled = [[*row, *[value] * (num_positions - len(row))] for row in rows]
            return torch.tensor(filled, device=self._device)

        inputs = {
            "input_ids": padded([sequence.token_ids for sequence in batch], pad),
            "attention_mask": padded([[1] * len(sequence) for sequence in batch], 0),
        }
        if batch[0].segments:
            inputs["token_type_ids"] = padded(
                [sequence.segments for sequence in batch], self._tokenizer.pad_token_type_id
            )
        with torch.inference_mode():
            return self._model(**inputs).logits.double().tolist()

    def _check_padding(self) -> None:
        """Raise ValueError if this architecture scores a padded sequence otherwise than the same one alone."""
        if self._config.batch_tokens == 1:
            return
        special = {*self._tokenizer.all_special_ids, self._pad_token_id}
        plain = [token for token in range(len(self._tokenizer)) if token not in special][:7]
        has_segments = "token_type_ids" in self._tokenizer.model_input_names
        short, long = (
            _Sequence(token_ids=ids, segments=(0,) * len(ids) if has_segments else ())
            for ids in (tuple(plain[:3]), tuple(plain))
        )
        (alone,), (padded, _) = self._forward([short]), self._forward([short, long])
        difference = max(abs(x - y) for x, y in zip(alone, padded, strict=True))
        if difference > _PADDING_TOLERANCE[self._config.dtype] * max(1.0, *map(abs, alone)):
            raise ValueError(
                f"reward_model.model = {self._config.model!r} ({type(self._model).__name__}) scores a sequence "
                f"otherwise when it is padded (logits differ by {difference:.3g}): set reward_model.batch_tokens = 1"
            )


def _load(config: RewardModelConfig, device: str) -> tuple[Any, Any]:
    """Tokenizer and model, ready to judge."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    named = f"reward_model.model = {config.model!r}"
    directory = Path(config.model)
    if directory.is_dir():
        if config.revision is not None:
            raise ValueError(
                f"reward_model.revision = {config.revision!r} has no effect on a directory: remove it"
            )
        if not any(directory.glob("*.safetensors")):
            raise ValueError(f"{named} has no *.safetensors: convert its weights to safetensors")
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # its report of missing weights: below, they are an error
    revision = config.revision or "main"
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.model, revision=revision, trust_remote_code=False)
        model, report = AutoModelForSequenceClassification.from_pretrained(
            config.model,
            revision=revision,
            dtype=getattr(torch, config.dtype),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"{named} does not load ({(str(error).splitlines() or [repr(error)])[0]}): "
            "name a directory or a hub id of a sequence classifier with its tokenizer"
        ) from error
    if report["missing_keys"]:  # transformers would fill them with random numbers
        missing = sorted(report["missing_keys"])
        raise ValueError(
            f"{named} was not trained to classify sequences: {missing[0]!r} is not among its weights "
            f"({len(missing)} such); name a reward model, or make one with `bonfire train-verifier`"
        )
    return tokenizer, model.eval().to(device)


def _find_device(device: str) -> str:
    import torch

    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise ValueError(
            "reward_model.device = 'cuda', but this verifier worker has no GPU: set verifier.num_gpus = 1 or device = 'auto'"
        )
    return "cuda" if has_gpu and device != "cpu" else "cpu"


def _input_form(config: RewardModelConfig, tokenizer: Any) -> Callable[[str, Sequence[str]], list[_Sequence]]:
    """From a prompt and completions to the sequences that the model is shown."""
    form, template = config.input, config.template
    if form == "auto":
        record = Path(config.model) / TRAINING_RECORD
        form = "chat" if tokenizer.chat_template else "text"
        if record.is_file():
            form, template = "text", json.loads(record.read_text())["template"]
    if form == "chat" and not tokenizer.chat_template:
        raise ValueError(
            f"reward_model.input = 'chat', but the tokenizer of {config.model!r} has no chat template: "
            "set reward_model.input = 'text' or 'pair'"
        )

    def as_text(prompt: str, completions: Sequence[str]) -> Any:
        return tokenizer(
            [fill(template, prompt=prompt, completion=text) for text in completions], verbose=False
        )

    def as_pair(prompt: str, completions: Sequence[str]) -> Any:
        return tokenizer([prompt] * len(completions), list(completions), verbose=False)

    def as_chat(prompt: str, completions: Sequence[str]) -> Any:
        turns = [
            [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
            for text in completions
        ]
        rendered = [tokenizer.apply_chat_template(messages, tokenize=False) for messages in turns]
        return tokenizer(rendered, add_special_tokens=False, verbose=False)

    tokenise = {"text": as_text, "chat": as_chat, "pair": as_pair}[form]

    def encode(prompt: str, completions: Sequence[str]) -> list[_Sequence]:
        if not completions:
            return []
        encoding = tokenise(prompt, completions)
        segments = encoding.get("token_type_ids", [()] * len(completions))
        return [
            _Sequence(token_ids=tuple(ids), segments=tuple(row))
            for ids, row in zip(encoding["input_ids"], segments, strict=True)
        ]

    return encode


def _length_limit(config: RewardModelConfig, tokenizer: Any, model: Any) -> int:
    """Longest input in tokens: `max_tokens`, else what tokenizer and position embeddings allow."""
    positions: float = getattr(model.config.get_text_config(), "max_position_embeddings", None) or -1
    positions = positions if positions > 0 else math.inf  # XLNet, say, has none
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            positions = module.num_embeddings - module.padding_idx - 1  # RoBERTa counts from there on
    if config.max_tokens is None:
        return int(min(positions, tokenizer.model_max_length))  # without limit, the tokenizer says 1e30
    if config.max_tokens > positions:
        raise ValueError(
            f"reward_model.max_tokens = {config.max_tokens} exceeds the {positions} positions of "
            f"{config.model!r}: lower it"
        )
    return config.max_tokens


def _batches(sequences: Collection[_Sequence], batch_tokens: int) -> Iterator[list[_Sequence]]:
    """Longest first, so that memory that does not suffice shows at once; a longer one than `batch_tokens` goes alone."""
    batch: list[_Sequence] = []
    for sequence in sorted(sequences, key=lambda s: (-len(s), s)):
        if batch and len(batch[0]) * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(sequence)
    if batch:
        yield batch

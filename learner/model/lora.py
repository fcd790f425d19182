"""Low-rank adapters (LoRA; Hu et al., arXiv 2106.09685) on a frozen model, put there and stored by peft.

The weight of an adapted layer is W' = round(W + (alpha / rank) B A), as `publish` sends it to the engines, and the
learner's own passes compute with that very W', not with W and B A apart as peft's layers do: in bfloat16 the two differ
by more than the updates of many steps. So the policy that is trained is the one that is sampled from, to the bit of
every weight. W' is there while its layer computes, and once more in the backward pass; it is never kept.

With G = dL/dW', which is never formed either, and s = alpha / rank: dL/dB = s G A^T, dL/dA = s B^T G. The rounding
counts as the identity, as it does where all weights are trained in float32 and computed with in bfloat16.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftConfig
from peft import inject_adapter_in_model
from peft.tuners.lora import Linear
from safetensors.torch import save_file
from torch.nn import functional

from actors.model_files import ADAPTER_WEIGHTS, read_object
from actors.weights.adapter import adapted_layers, adapter_fingerprint
from actors.weights.fingerprint import add_fingerprints, param_fingerprint
from actors.weights.manifest import WeightManifest, views
from learner.config import ALL_LINEAR, LoraConfig
from learner.model.names import StoredLayout, stored_buffers
from learner.model.publish import Buckets
from learner.model.served_adapter import AdapterLayout, AddedLinear, ScaledAdapters
from learner.model.sharding import whole
from learner.model.tensor_files import read_tensors
from verifiers.section_config import did_you_mean

NAME = "default"
"""peft's own for a model's only adapter; left out on disk."""
_DOWN, _UP = f"lora_A.{NAME}", f"lora_B.{NAME}"
_BASE = "base_layer"
_PREFIX = "base_model.model."
"""Of all names in a file of peft, whose models wrap the model."""
FACTS = "bonfire_adapter.json"
"""Beside it: `base_fingerprint`, of the adapted weights in float32; `published`, as learner.lora.publish was; and `dtype`, in
which they were served merged, float32 for an adapter that was served apart, whose product is more exact than any sum in
bfloat16.
"""


def merge(
    weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor, scaling: float, served: torch.dtype
) -> torch.Tensor:
    """W' = round(W + scaling * up @ down): bfloat16 where that is `served`, else in the widest dtype of the three.

    Shapes: weight [out, in], down [rank, in], up [out, rank].
    """
    with torch.autocast(weight.device.type, enabled=False):
        return rounded((up @ down).mul_(scaling).add_(weight), served)


def rounded(weight: torch.Tensor, served: torch.dtype) -> torch.Tensor:
    """To bfloat16, if engines are served that; else the weight itself."""
    return weight.bfloat16() if served == torch.bfloat16 else weight


class MergedLinear(Linear):
    """peft's layer, computed as one multiplication by the merged weight."""

    served: torch.dtype
    """In which engines have the weight."""

    def forward(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """[..., in] -> [..., out]"""
        base: Any = self.base_layer
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        out: torch.Tensor = _Multiplication.apply(
            x.to(dtype),
            base.weight,
            None if base.bias is None else base.bias.to(dtype),
            self.lora_A[NAME].weight,
            self.lora_B[NAME].weight,
            self.scaling[NAME],
            self.served,
        )
        return out


class _Multiplication(torch.autograd.Function):
    """x W'^T + bias. Keeps x and the three weights as they are, of which W' is made once more."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scaling: float,
        served: torch.dtype,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, down, up)
        ctx.scaling, ctx.served = scaling, served
        return functional.linear(x, merge(weight, down, up, scaling, served).to(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        x, weight, down, up = ctx.saved_tensors
        (gradient,) = gradients
        gradient_x = None
        if ctx.needs_input_grad[0]:
            gradient_x = gradient @ merge(weight, down, up, ctx.scaling, ctx.served).to(x.dtype)
        x_TI, gradient_TO = x.flatten(0, -2), gradient.flatten(0, -2)
        gradient_up = gradient_TO.T @ (x_TI @ down.to(x.dtype).T)
        gradient_down = (gradient_TO @ up.to(x.dtype)).T @ x_TI
        scaled = [one.to(up.dtype).mul_(ctx.scaling) for one in (gradient_down, gradient_up)]
        return gradient_x, None, None, *scaled, None, None


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """What there is to know of a model that `attach` has changed."""

    layout: StoredLayout
    """Of the model without adapters, which is what is published."""
    peft: PeftConfig
    names: Mapping[str, str]
    """Of every parameter of the model, and what it is called beside adapters."""
    scaling: float
    served: torch.dtype
    base_fingerprint: int
    served_fingerprint: int
    """Of the frozen weights and the buffers as engines have them from disk."""
    apart: bool
    """Engines get the adapters alone."""

    def published_layout(self, trained: Mapping[str, torch.Tensor]) -> StoredLayout | AdapterLayout:
        """Of what engines are given; `trained`: the parameters of the adapters."""
        return AdapterLayout(trained, NAME) if self.apart else self.layout

    def published(
        self, parameters: Mapping[str, torch.Tensor], buffers: Mapping[str, torch.Tensor]
    ) -> Mapping[str, torch.Tensor]:
        """The sources of `published_layout`; `parameters`: of the model as it is."""
        if not self.apart:
            return self.merged(parameters, buffers)
        trained = {name: value for name, value in parameters.items() if value.requires_grad}
        return ScaledAdapters(trained, self.scaling)

    def fingerprint_of(self, manifest: WeightManifest, buckets: Buckets) -> int:
        """Of engines that have the frozen weights from disk and the adapters in the buckets apart from them."""
        adapter = adapter_fingerprint(adapted_layers(dict(views(manifest, buckets))).values())
        return add_fingerprints([self.served_fingerprint, adapter])

    def merged(self, parameters: Mapping[str, torch.Tensor], buffers: Mapping[str, torch.Tensor]) -> Merged:
        """The model's weights by the names they had without adapters; `parameters`: of the model as it is."""
        return Merged(self, parameters, buffers)

    def write(self, directory: Path, weights: Mapping[str, torch.Tensor]) -> None:
        """As peft stores an adapter; `weights`: those trained, in whole, by the names of the model's parameters."""
        self.peft.save_pretrained(str(directory))
        stored = {_on_disk(name): value for name, value in weights.items()}
        save_file(stored, directory / ADAPTER_WEIGHTS, {"format": "pt"})
        served = torch.float32 if self.apart else self.served
        facts = {
            "base_fingerprint": self.base_fingerprint,
            "dtype": str(served).removeprefix("torch."),
            "published": "adapter" if self.apart else "merged",
        }
        (directory / FACTS).write_text(json.dumps(facts, indent=2) + "\n")

    def read(self, directory: Path, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """The stored weights of all that is trained of `model`, in whole, by the names of its parameters.

        Raises ValueError where they are of other layers or another rank, or adapt a model with other weights.
        """
        file = directory / ADAPTER_WEIGHTS
        stored = read_tensors(file)
        if facts_of(directory).get("base_fingerprint") != self.base_fingerprint:
            raise ValueError(
                f"{file} adapts other weights than model = {self.peft.base_model_name_or_path!r} has now: bring back those "
                "that it was trained on"
            )
        trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        others = sorted(stored.keys() ^ {_on_disk(name) for name in trained})
        if others:
            raise ValueError(
                f"{file} adapts other layers than learner.lora.target says ({others[0]!r} first): give it what it was trained with"
            )
        for name, value in trained.items():
            if stored[_on_disk(name)].shape != value.shape:
                raise ValueError(
                    f"{file} has {_on_disk(name)!r} of shape {list(stored[_on_disk(name)].shape)}, learner.lora.rank asks for "
                    f"{list(value.shape)}: give it the rank that it was trained with"
                )
        return {name: stored[_on_disk(name)] for name in trained}


class Merged(Mapping[str, torch.Tensor]):
    """Merges an adapted weight when it is asked for, and keeps nothing. Where shards are put together for it, which is
    collective, it is whole.
    """

    def __init__(
        self,
        adapters: Adapters,
        parameters: Mapping[str, torch.Tensor],
        buffers: Mapping[str, torch.Tensor],
    ) -> None:
        self._adapters = adapters
        self._parameters = parameters
        self._buffers = buffers

    def __getitem__(self, name: str) -> torch.Tensor:
        if name in self._buffers:
            return self._buffers[name]
        known = self._adapters.names[name]
        layer, _, leaf = known.rpartition(f".{_BASE}.")
        if leaf != "weight":
            return self._parameters[known]
        weight, down, up = (
            whole(self._parameters[f"{layer}.{part}.weight"].detach()) for part in (_BASE, _DOWN, _UP)
        )
        return merge(weight, down, up, self._adapters.scaling, self._adapters.served)

    def __iter__(self) -> Iterator[str]:
        return iter((*self._adapters.names, *self._buffers))

    def __len__(self) -> int:
        return len(self._adapters.names) + len(self._buffers)


def attach(model: Any, config: LoraConfig, served: str, *, model_name: str) -> Adapters:
    """Freeze a model of float32 weights and give its linear layers adapters, in place: all that is trained then.

    B is zero, so the model computes what it did; A is drawn from torch's global generator, as peft does. The frozen
    weights get the values that they have when they are `served`: bfloat16 or float32. Raises ValueError in one
    line where `config.target` names what cannot be adapted; `model_name` is for that, and is noted as the base model.
    """
    layout = StoredLayout(model)
    dtype: torch.dtype = getattr(torch, served)
    parameters = dict(model.named_parameters())
    on_meta = any(parameter.is_meta for parameter in parameters.values())
    base_fingerprint = 0 if on_meta else param_fingerprint(parameters)
    for parameter in parameters.values():
        parameter.requires_grad_(False)
        parameter.data = rounded(parameter.data, dtype).to(parameter.dtype)
    served_fingerprint = 0 if on_meta else param_fingerprint({**parameters, **stored_buffers(model)})
    apart = config.publish == "adapter"
    targets = _targets(model, config, model_name)
    most = max(min(model.get_submodule(target).weight.shape) for target in targets)
    if config.rank > most:
        raise ValueError(
            f"learner.lora.rank = {config.rank}: no weight that is adapted of model = {model_name!r} has a rank above {most}: "
            "lower it, or leave [learner.lora] out and train all weights"
        )
    peft_config = PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # peft divides it
        target_modules=[f"{_Shell.PREFIX}{target}" for target in targets],
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=model_name,
    )
    layer = AddedLinear if apart else MergedLinear
    peft_config._register_custom_module({torch.nn.Linear: layer})
    inject_adapter_in_model(peft_config, _Shell(model), NAME, low_cpu_mem_usage=on_meta)
    for part in model.modules():
        if isinstance(part, (AddedLinear, MergedLinear)):
            part.served = dtype
    peft_config.target_modules = targets  # as a list it is stored in order
    peft_config.inference_mode = True  # what is stored is to be used
    now = {id(parameter): name for name, parameter in model.named_parameters()}
    return Adapters(
        layout=layout,
        peft=peft_config,
        names={name: now[id(parameter)] for name, parameter in parameters.items()},
        scaling=config.alpha / config.rank,
        served=dtype,
        base_fingerprint=base_fingerprint,
        served_fingerprint=served_fingerprint,
        apart=apart,
    )


def facts_of(directory: Path) -> dict[str, Any]:
    """What FACTS tells of an adapter. Raises ValueError for one of another program, whose settings may be any of peft's."""
    if not (directory / FACTS).exists():
        raise ValueError(
            f"{directory} has no {FACTS}, as adapters of a run have: merge it by peft's own merge_and_unload"
        )
    return read_object(directory / FACTS)


def was_served_apart(directory: Path) -> bool:
    """Whether the engines of its run were given the adapter alone. Raises ValueError like `facts_of`."""
    return facts_of(directory).get("published") == "adapter"


def count_parameters(model: Any, config: LoraConfig, model_name: str) -> int:
    """How many the adapters of a model have, which gets them; it may be one without memory for its weights.

    Raises what `attach` does.
    """
    attach(model, config, "float32", model_name=model_name)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _on_disk(name: str) -> str:
    return _PREFIX + name.replace(f".{NAME}.", ".")


def _targets(model: Any, config: LoraConfig, model_name: str) -> list[str]:
    """Full names of the layers to adapt, in the model's order. Each must be linear, and not tied to another weight."""
    linear = {name: part for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if config.target == (ALL_LINEAR,):
        all_linear = [name for name, part in linear.items() if part is not head]
        if not all_linear:
            raise ValueError(
                f"learner.lora: model = {model_name!r} has no linear layer but its head (its layers are of another kind): leave "
                "[learner.lora] out and train all weights"
            )
        return all_linear
    found: set[str] = set()
    for target in config.target:
        layers = {name for name in linear if f".{name}".endswith(f".{target}")}
        if not layers:
            known = sorted({name.rpartition(".")[2] for name in linear})
            raise ValueError(
                f"learner.lora.target = {list(config.target)}: model = {model_name!r} has no linear layer named "
                f"{target!r}{did_you_mean(target, known)}; it has {', '.join(known)}"
            )
        if any(linear[name].weight is embedding.weight for name in layers):
            raise ValueError(
                f"learner.lora.target = {list(config.target)}: {target!r} of model = {model_name!r} shares its weight with the "
                "embedding, which would change with it: leave it out"
            )
        found |= layers
    return [name for name in linear if name in found]


class _Shell(torch.nn.Module):
    """The model as a module that peft knows nothing of: of some mixtures it would adapt experts instead of the layers
    that it is told.
    """

    PREFIX = "policy."

    def __init__(self, policy: torch.nn.Module) -> None:
        super().__init__()
        self.policy = policy

"""What a role's workers reserve, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PositiveInt

SETTINGS_OF_THEIR_OWN = {"CPU": "num_cpus", "GPU": "num_gpus"}
Dtype = Literal["float32", "bfloat16"]


def dtype_by_device(settings: Mapping[str, Any]) -> Dtype:
    """'float32' on the CPU, 'bfloat16' with num_gpus > 0"""
    return "bfloat16" if settings.get("num_gpus", 0) > 0 else "float32"


def _is_custom(resources: dict[str, int]) -> dict[str, int]:
    for name, amount in resources.items():
        if name in SETTINGS_OF_THEIR_OWN:
            raise ValueError(f"{name} = {amount} is no custom resource: set {SETTINGS_OF_THEIR_OWN[name]}")
    return resources


CustomResources = Annotated[
    dict[Annotated[str, Field(min_length=1)], PositiveInt],
    AfterValidator(_is_custom),
    Field(
        description="Custom Ray resources each worker reserves, such as { gpu_80g = 1 }: it runs only on nodes "
        "that offer them (ray start --resources)."
    ),
]

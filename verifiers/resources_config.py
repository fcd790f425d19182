"""Custom resources, which keep a role's workers on the nodes that offer them."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, PositiveInt

SETTINGS_OF_THEIR_OWN = {"CPU": "num_cpus", "GPU": "num_gpus"}


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

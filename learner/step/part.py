"""What passes over a part of a step's groups leave behind, beside the gradients that they have added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actors.types import Demonstration, SampleGroup, ScoredGroup
from learner.step.batch import Sequences, collect
from learner.step.loss import LossFacts
from learner.step.parity import ParityFacts


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """Shapes: `B` groups in order of their number, `N` samples of each. Facts and parity are this rank's own."""

    groups: list[ScoredGroup]
    demonstrations: list[Demonstration]  # of each group, or of none
    weights_BN: np.ndarray  # float64
    sequences: Sequences
    facts: LossFacts
    parity: ParityFacts  # of the tokens that were passed over
    num_groups: int  # of the whole step
    positions: float  # computed, by all ranks
    forward_s: float
    backward_s: float

    @classmethod
    def whole(cls, parts: Sequence[Part]) -> Part:
        """All of a step's as one, whatever groups each has. Raises ValueError where they are not of one step."""
        if len(parts) == 1:
            return parts[0]
        if len({(part.num_groups, part.weights_BN.shape[1]) for part in parts}) != 1:
            raise ValueError(
                "parts of a step are of different steps: "
                + ", ".join(
                    f"{part.num_groups} groups of {part.weights_BN.shape[1]} samples" for part in parts
                )
            )
        groups = [group for part in parts for group in part.groups]
        demonstrations = [one for part in parts for one in part.demonstrations]
        order = np.argsort([group.samples.group for group in groups], kind="stable").tolist()
        groups = [groups[place] for place in order]
        demonstrations = [demonstrations[place] for place in order] if demonstrations else []
        samples: list[SampleGroup] = [group.samples for group in groups]
        sequences = collect(samples, demonstrations)
        names = sequences.worker_names
        parities = [part.parity.among(part.sequences.worker_names, names) for part in parts]
        return cls(
            groups=groups,
            demonstrations=demonstrations,
            weights_BN=np.concatenate([part.weights_BN for part in parts])[order],
            sequences=sequences,
            facts=sum((part.facts for part in parts), LossFacts()),
            parity=sum(parities[1:], parities[0]),
            num_groups=parts[0].num_groups,
            positions=sum(part.positions for part in parts),
            forward_s=sum(part.forward_s for part in parts),
            backward_s=sum(part.backward_s for part in parts),
        )

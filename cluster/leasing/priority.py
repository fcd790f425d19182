"""Which sequences an engine decodes first: lower numbers, whenever they come.

A group must be trained by the version that it was begun under plus `train.max_staleness`, which is the same for all: so of
two groups the one begun under the older version has the earlier deadline, and of equals the one with the lower number is
trained first, as in `admission.cut_batch`. All pieces of a group have the group's priority, whenever they are leased.
"""

from __future__ import annotations

GROUPS = 2**40
"""More than a run has."""
BELOW_TRAINING = 2**62
"""Added to any number below it: later than all of training. vLLM and msgpack take 64 bits."""


def of_training(version: int, group: int) -> int:
    """Of the pieces of a group that was begun under `version`."""
    return version * GROUPS + group


def of_evaluation(number: int) -> int:
    """Of what a run samples for its own evaluation: an engine does it with the places that training leaves."""
    return BELOW_TRAINING + number

"""A rank's part of the sequences of a step."""

from __future__ import annotations

import numpy as np

from learner.gang import Gang
from learner.step.batch import (
    PackedBatch,
    Sequences,
    bundles,
    divide,
    empty_batch,
    num_positions,
    pack_bundles,
)
from learner.types import Packing


def share_of_rank(
    sequences: Sequences, chosen: np.ndarray, *, max_tokens: int, packing: Packing, gang: Gang
) -> list[PackedBatch]:
    """This rank's micro-batches of the chosen sequences, of at most `max_tokens` positions. Collective.

    All ranks have equally many, for a pass is one of all: some may be empty. What shares a prompt is
    divided, not micro-batches, of which a step may have fewer than there are ranks; a group that is
    more than half of a rank's share is cut.
    """
    share = int(sequences.num_positions_S[chosen].sum()) // gang.size
    limit = max_tokens if gang.size == 1 else max(1, min(max_tokens, share // 2))
    parts = bundles(sequences, chosen, limit, packing)
    lengths = np.array([num_positions(sequences, part) for part in parts], np.int64)
    mine = [parts[part] for part in divide(lengths, gang.size)[gang.rank]]
    batches = list(pack_bundles(sequences, mine, max_tokens, packing))
    most = int(gang.largest(np.array(len(batches))))
    return batches + [empty_batch()] * (most - len(batches))

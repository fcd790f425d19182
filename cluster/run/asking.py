"""What a lease asks for: the problem of its group, with the group's seeds, and how soon."""

from __future__ import annotations

from collections.abc import Sequence

from actors.types import Lease, Piece
from cluster.config.schema import RunConfig
from cluster.leasing import priority
from cluster.leasing.ledger import Ledger
from verifiers.types import Problem


class Asking:
    """Leases of one run, whose ledger says which problem a group asks."""

    def __init__(
        self,
        config: RunConfig,
        ledger: Ledger,
        problems: Sequence[Problem],
        prompts: Sequence[tuple[int, ...]],
    ) -> None:
        """`prompts`: the problems' token ids, in their order."""
        self._first_seed = config.train.seed << 32
        self._ledger = ledger
        self._problems = problems
        self._prompts = prompts

    def lease(self, piece: Piece) -> Lease:
        """For a piece that the ledger has just leased."""
        index = self._ledger.problem_index(piece.group)
        return Lease(
            piece=piece,
            problem_id=self._problems[index].id,
            prompt_token_ids=self._prompts[index],
            seed=self._first_seed + piece.group * self._ledger.num_samples,
            priority=priority.of_training(self._ledger.leased[piece.group].version, piece.group),
        )

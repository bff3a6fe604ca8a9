"""Which sequences get which guesses in the next step. Pure: the clock is handed in."""

from __future__ import annotations

from collections.abc import Callable, Collection

from serve.drafting import DraftModel, Wanted
from serve.engine.pace import Pace
from serve.engine.requests import Requests
from serve.engine.sequence import Sequence


class Guessing:
    """Gives guesses to those that may have some: what repeats in text and suggestions, else the draft model's.

    Args:
        requests: whose sequences they are.
        pace: says what a guess costs.
        clock: seconds.
        n_batch: most tokens of a step.
        only_alone: whether guesses are too dear where several run: sequences with cells of their own are computed
            together only as far as they have equally many tokens, and what is over takes a pass of its own.
        draft_model: a second model, or none.
    """

    def __init__(
        self,
        requests: Requests,
        pace: Pace,
        clock: Callable[[], float],
        *,
        n_batch: int,
        only_alone: bool,
        draft_model: DraftModel | None,
    ) -> None:
        self._requests, self._pace, self._clock = requests, pace, clock
        self._n_batch, self._only_alone, self._draft_model = n_batch, only_alone, draft_model

    def give(self, running: Collection[Sequence]) -> None:
        """Set `draft` of each sequence whose next token the step may choose; empty that of the others."""
        self._requests.price_guesses(self._pace.guess_cost)
        unhelped: dict[int, tuple[Sequence, Wanted]] = {}
        for s in running:
            s.draft = []
            g = self._requests[s.id]
            left = g.request.max_tokens - g.n_generated - 1
            if len(running) > 1 and self._only_alone:
                continue
            if not g.draft or s.n_pending > self._n_batch or left < 1:
                continue
            s.draft = g.draft.guess(left)
            if not s.draft and s.generates and self._draft_model:
                unhelped[s.slot] = s, Wanted(s.tokens, g.draft.allowed(left))
        if unhelped and self._draft_model:
            self._ask(self._draft_model, unhelped)

    def _ask(self, model: DraftModel, unhelped: dict[int, tuple[Sequence, Wanted]]) -> None:
        began = self._clock()
        found = model.guess({slot: wanted for slot, (_, wanted) in unhelped.items()})
        self._pace.observe_guesses(sum(map(len, found.values())), self._clock() - began)
        for slot, guesses in found.items():
            unhelped[slot][0].draft = guesses

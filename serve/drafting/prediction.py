"""Draft tokens from a text that a completion repeats with changes, such as the code that it rewrites."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

# Maximum number of tokens that are compared at each place of the predicted text.
FARTHEST: Final = 8
# (latest tokens that agree with the predicted text, most draft tokens). After a change, one token that agrees is weak
# evidence that the completion is back in the predicted text. Measured on the 198 rewrites of Zeta, Zeta 2 and Sweep
# next-edit that cursortab.nvim recorded (server/eval/scenarios, b9f9b0a), with SmolLM2's tokenizer.
LENGTHS: Final = ((3, 99), (2, 8), (1, 4))


class PredictedText:
    """Position of a completion in the text that it is expected to repeat.

    Args:
        tokens: tokens of the predicted text.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = tokens
        self._places: dict[int, list[int]] = defaultdict(list)
        for place, token in enumerate(tokens):
            self._places[token].append(place)
        self._latest: list[int] = []  # the last FARTHEST tokens of the completion
        self._next = 0  # index of the token that is expected next
        self._agree = FARTHEST  # number of tokens before it that agree; at the beginning, trust the prediction

    def propose(self, most: int) -> list[int]:
        """Return up to `most` tokens that are expected next."""
        longest = next((n for agree, n in LENGTHS if self._agree >= agree), 0)
        return list(self._tokens[self._next : self._next + min(most, longest)])

    def append(self, token: int) -> None:
        """Add a token that the model chose."""
        self._latest = [*self._latest[1 - FARTHEST :], token]
        if self._next < len(self._tokens) and self._tokens[self._next] == token:
            self._next += 1
            self._agree += 1
            return
        # The place where most of the latest tokens agree, or the nearest of equal ones, preferably farther on.
        best, best_rank = -1, (0, 0)
        for place in self._places.get(token, ()):
            distance = place - self._next
            rank = self._agreement(place), -(distance if distance >= 0 else -2 * distance)
            if rank > best_rank or best < 0:
                best, best_rank = place, rank
        self._agree = best_rank[0]
        if best >= 0:
            self._next = best + 1

    def _agreement(self, place: int) -> int:
        """Return how many of the latest tokens agree with those up to and including `place`."""
        n = 0
        while (
            n < min(len(self._latest), place + 1)
            and self._tokens[place - n] == self._latest[-1 - n]
        ):
            n += 1
        return n

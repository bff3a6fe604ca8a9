"""A request's guesses: what was suggested here lately, else what repeats. Knows nothing of llama.cpp or threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from serve.decoder import FimTokens
from serve.drafting.allowance import FIRST, Allowance
from serve.drafting.recent import TAIL, RecentSuggestions
from serve.drafting.token_index import MOST, TokenIndex

MOST_BYTES = 1024  # of a remembered suggestion that are tokenized at once
# Where a guess costs more than this share of a step, what merely repeats is too seldom right to be worth it.
DEAR = 0.45
LEARNING = 0.1  # how much one guess from a remembered suggestion says about the next


class Drafter:
    """Guesses for all requests of an engine.

    Args:
        tokenize: bytes → token ids, without a begin-of-sequence token, nothing special.
        piece: the bytes of a token; nothing for a special one.
        fim: the model's ids for fill-in-the-middle, to find the text before the cursor in a prompt.
        cost: of computing one guessed token along with a step, in steps; may be set when it was measured.
    """

    def __init__(
        self,
        tokenize: Callable[[bytes], list[int]],
        piece: Callable[[int], bytes],
        *,
        fim: FimTokens | None = None,
        cost: float = 0.6,
    ) -> None:
        self.tokenize, self.piece, self.fim, self.cost = tokenize, piece, fim, cost
        self.recent = RecentSuggestions()
        self._recent_right = 0.5  # the share of remembered tokens that were right lately

    def first_credit(self, *, remembers: bool) -> int:
        """Tokens that a request may guess at first: a whole suggestion, where remembered ones are right enough."""
        return MOST if remembers and self._recent_right > self.cost else FIRST

    def learn(self, guessed: int, accepted: int) -> None:
        """So many of the tokens that were guessed from a remembered suggestion were right."""
        self._recent_right += LEARNING * (accepted / guessed - self._recent_right)

    def begin(self, request_tokens: Sequence[int], context: Sequence[int] = ()) -> Draft:
        """The guesses for one request.

        Args:
            request_tokens: its prompt.
            context: other tokens that it may repeat.
        """
        return Draft(self, request_tokens, context)

    def before_cursor(self, prompt: Sequence[int]) -> bytes:
        """The end of the text before the cursor: TAIL bytes, or all where there are fewer."""
        end = len(prompt)
        if self.fim and end and prompt[-1] == self.fim.middle and self.fim.suffix in prompt:
            while (
                prompt[end - 1] != self.fim.suffix
            ):  # prefix, then suffix, then what the model writes
                end -= 1
            end -= 1
        pieces: list[bytes] = []
        n = 0
        while n < TAIL and end > 0:
            end -= 1
            pieces.append(self.piece(prompt[end]))
            n += len(pieces[-1])
        return b"".join(reversed(pieces))[-TAIL:]


class Draft:
    """One request's guesses. Each step: `guess`, then `append` what the model chose, then `result`."""

    def __init__(self, drafter: Drafter, prompt: Sequence[int], context: Sequence[int]) -> None:
        self._drafter = drafter
        self._prompt, self._context = prompt, context
        self._before = drafter.before_cursor(prompt)
        self._generated: list[int] = []
        self._index: TokenIndex | None = None
        self._n_indexed = 0
        # What is left of a remembered suggestion that the model has agreed with so far.
        self._text = drafter.recent.find(self._before)[:MOST_BYTES]
        self._ahead = drafter.tokenize(self._text) if self._text else []
        self._at = 0
        first = drafter.first_credit(remembers=bool(self._ahead))
        self._allowance = Allowance(cost=drafter.cost, first=first)
        self._is_remembered = False  # whether the last guess was

    def guess(self, most: int) -> list[int]:
        """The next tokens, as many as are likely enough and may be guessed; perhaps none.

        Nothing costs less than not to ask: with no credit this does nothing.
        """
        most = min(most, self._allowance.n())
        if most < 1:
            return []
        self._is_remembered = self._at < len(self._ahead)
        if self._is_remembered:
            return self._ahead[self._at : self._at + most]
        if not self._generated or self._drafter.cost > DEAR:
            return []  # the first token is the user's wait; the index can be built while it is read
        return self._indexed().guess(most, worth=self._drafter.cost)

    def allowed(self, most: int) -> int:
        """How many tokens may be guessed by whoever knows some."""
        self._is_remembered = False
        return min(most, self._allowance.n())

    def append(self, token: int) -> None:
        """The token that the model chose."""
        self._generated.append(token)
        if self._at >= len(self._ahead):
            return
        data = self._drafter.piece(token)
        agrees = self._text.startswith(data)
        self._text = self._text[len(data) :] if agrees else b""
        if token == self._ahead[self._at]:
            self._at += 1
        else:  # the same text in other tokens, or another text
            ahead = self._drafter.tokenize(self._text) if data and self._text else []
            self._ahead, self._at = ahead, 0

    def result(self, guessed: int, accepted: int) -> None:
        """Book a step of the model: how many tokens were guessed, and how many of them were right."""
        self._allowance.result(guessed, accepted)
        if guessed and self._is_remembered:
            self._drafter.learn(guessed, accepted)

    def end(self) -> None:
        """Remember what was suggested."""
        suggestion = b"".join(map(self._drafter.piece, self._generated))
        self._drafter.recent.remember(self._before, suggestion)

    def _indexed(self) -> TokenIndex:
        """The index, which has all tokens."""
        if self._index is None:
            self._index = TokenIndex([*self._prompt, *self._generated], self._context)
        else:
            for token in self._generated[self._n_indexed :]:
                self._index.append(token)
        self._n_indexed = len(self._generated)
        return self._index

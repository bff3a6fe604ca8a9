"""Draft tokens for each request, from an earlier completion at the same place or from repeated text."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serve.drafting.prediction import PredictedText
from serve.drafting.token_index import MOST, TokenIndex
from serve.prompt.bound_layout import FimLayouts

if TYPE_CHECKING:
    from serve.sampling.healing import Healing

MOST_ENTRIES = 64  # number of remembered completions
TAIL = 256  # bytes kept of a prompt's end
LEAST = 24  # bytes before the cursor that must match; the whole prompt if it is shorter
LONGEST = 4096  # bytes kept of a completion
MOST_BYTES = 1024  # bytes of a remembered completion that are tokenized for one request
MOST_PREDICTED = 16384  # bytes of a predicted text that are tokenized for one request
FIRST = 4  # draft tokens that a new request may use
SHARE = 0.05  # cost that drafts may add, as a share of the cost of the steps without them
# If a draft token costs more than this share of a step, drafts from repeated text are accepted too rarely to pay off.
DEAR = 0.45
LEARNING = 0.1  # weight of one draft in the running acceptance rate of remembered completions


class RecentCompletions:
    """The latest completions, each with the text before it.

    Both are stored as bytes, because the tokens of the same text depend on the cursor's position.
    """

    def __init__(self, most: int = MOST_ENTRIES) -> None:
        self._most = most
        self._entries: OrderedDict[bytes, bytes] = OrderedDict()  # end of the prompt → completion

    def __len__(self) -> int:
        return len(self._entries)

    def remember(self, prompt: bytes, completion: bytes) -> None:
        """Store a completion; it replaces an earlier one for the same prompt.

        Args:
            prompt: text before the cursor; at least its last TAIL bytes.
            completion: the generated text.
        """
        if not completion:
            return
        prompt = prompt[-TAIL:]
        self._entries.pop(prompt, None)
        self._entries[prompt] = completion[:LONGEST]
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)

    def find(self, prompt: bytes) -> bytes:
        """Return the rest of a remembered completion that continues this prompt, or b"" if there is none.

        The last LEAST bytes of the prompt must occur in a remembered text (prompt and completion) and end at or after
        its cursor. A shorter prompt must match the beginning of that text. The longest match wins, then the latest
        completion.

        Args:
            prompt: text before the cursor; at least its last TAIL bytes.
        """
        prompt = prompt[-TAIL:]
        best, longest, key = b"", -1, b""
        for before, completion in reversed(self._entries.items()):
            text = before + completion
            for end in _ends(text, prompt, len(before)):
                agree = _agreement(text[:end], prompt)
                if agree > longest:
                    best, longest, key = text[end:], agree, before
        if best:
            self._entries.move_to_end(key)
        return best


def _ends(text: bytes, prompt: bytes, cursor: int) -> list[int]:
    """Return the offsets in a remembered text, from its cursor to before its end, at which the prompt may end."""
    if len(prompt) < LEAST:
        n = len(prompt)
        return [n] if cursor <= n < len(text) and text.startswith(prompt) else []
    needle, found = prompt[-LEAST:], []
    at = text.find(needle, max(0, cursor - LEAST))
    while 0 <= at < len(text) - LEAST:
        found.append(at + LEAST)
        at = text.find(needle, at + 1)
    return found


def _agreement(text: bytes, prompt: bytes) -> int:
    """Return the length of the longest common suffix."""
    low, high = 0, min(len(text), len(prompt))
    while low < high:
        middle = (low + high + 1) // 2
        if text[-middle:] == prompt[-middle:]:
            low = middle
        else:
            high = middle - 1
    return low


class Drafter:
    """State shared by the drafts of all requests.

    Args:
        tokenize: bytes → token ids, without a begin-of-sequence token or special tokens.
        piece: token id → bytes; b"" for a special token.
        fim: the model's fill-in-the-middle layouts, used to find the prefix in a prompt.
        cost: cost of computing one draft token in a step, in units of a step; updated once it has been measured.
    """

    def __init__(
        self,
        tokenize: Callable[[bytes], list[int]],
        piece: Callable[[int], bytes],
        *,
        fim: FimLayouts | None = None,
        cost: float = 0.6,
    ) -> None:
        self.tokenize, self.piece, self.fim, self.cost = tokenize, piece, fim, cost
        self.recent = RecentCompletions()
        self._recent_right = 0.5  # recent acceptance rate of tokens from remembered completions

    def first_credit(self, *, remembers: bool, predicts: bool) -> int:
        """Return how many tokens a new request may draft.

        MOST if there is a predicted text, or a remembered completion while these are accepted often enough.
        """
        return MOST if predicts or (remembers and self._recent_right > self.cost) else FIRST

    def learn(self, n_drafted: int, n_right: int) -> None:
        """Record how many tokens drafted from a remembered completion were accepted."""
        self._recent_right += LEARNING * (n_right / n_drafted - self._recent_right)

    def begin(
        self,
        prompt: Sequence[int],
        context: Sequence[int] = (),
        prediction: bytes = b"",
        healing: Healing | None = None,
    ) -> Draft:
        """Return the draft of one request.

        Args:
            prompt: tokens of the prompt.
            context: tokens other than the prompt that the completion may repeat.
            prediction: text that the completion is expected to repeat, with changes; b"" if there is none.
            healing: text before the cursor that the completion re-spells first.
        """
        return Draft(self, prompt, context, prediction, healing)

    def before_cursor(self, prompt: Sequence[int]) -> bytes:
        """Return the last TAIL bytes of the text before the cursor."""
        end = self.fim.prefix_end(prompt) if self.fim else len(prompt)
        pieces: list[bytes] = []
        n = 0
        while n < TAIL and end > 0:
            end -= 1
            pieces.append(self.piece(prompt[end]))
            n += len(pieces[-1])
        return b"".join(reversed(pieces))[-TAIL:]


@dataclass(slots=True)
class DraftCounts:
    """Numbers of draft tokens of one request.

    Attributes:
        checked: computed by the model.
        accepted: those of `checked` that the model confirmed.
        predicted: those of `checked` that came from the client's prediction.
        confirmed: those of `predicted` that the model confirmed.
    """

    checked: int = 0
    accepted: int = 0
    predicted: int = 0
    confirmed: int = 0


class Draft:
    """The draft tokens of one request. `counts` are those so far.

    In each step, call `propose`, then `append` for each token that the model chose, then `result`.

    Each request has a credit in units of one decode step's cost. A step adds SHARE, a draft token costs
    `drafter.cost`, and an accepted one returns the step that it saved. The net cost of drafts therefore never exceeds
    the first credit plus SHARE of all steps.
    """

    def __init__(
        self,
        drafter: Drafter,
        prompt: Sequence[int],
        context: Sequence[int],
        prediction: bytes,
        healing: Healing | None,
    ) -> None:
        self._drafter = drafter
        self._prompt, self._context = prompt, context
        self._before = drafter.before_cursor(prompt)
        self._generated: list[int] = []
        self._index: TokenIndex | None = None
        self._n_indexed = 0
        self.counts = DraftCounts()
        self._is_predicted = False  # whether the last draft came from the prediction
        again = healing.text if healing else b""
        predicted = (again + prediction)[:MOST_PREDICTED] if prediction else b""
        self._predicted = PredictedText(drafter.tokenize(predicted)) if predicted else None
        # The rest of a remembered completion that has matched the model's tokens so far.
        known = b"" if predicted else drafter.recent.find(self._before)
        self._text = known[:MOST_BYTES] if known.startswith(again) else b""
        self._ahead = drafter.tokenize(self._text) if self._text else []
        self._is_known = bool(self._ahead)
        if healing and not (self._ahead or predicted):  # most texts are spelled as before
            self._text, self._ahead = again, list(healing.tokens)
        self._at = 0
        self._cost = max(drafter.cost, 1e-3)
        first = drafter.first_credit(remembers=self._is_known, predicts=bool(predicted))
        self._credit = first * self._cost
        self._is_remembered = False  # whether the last draft came from a remembered completion

    def propose(self, most: int) -> list[int]:
        """Return up to `most` draft tokens: those that are likely enough and that the credit allows."""
        most = self.allowed(most)
        if most < 1:
            return []
        if self._predicted and (draft := self._predicted.propose(most)):
            self._is_predicted = True
            return draft
        self._is_remembered = self._at < len(self._ahead)
        if self._is_remembered:
            return self._ahead[self._at : self._at + most]
        if not self._generated or self._drafter.cost > DEAR:
            return []  # building the index would delay the first token
        return self._indexed().propose(most, worth=self._drafter.cost)

    def allowed(self, most: int) -> int:
        """Return how many tokens the credit allows to draft in the next step, from any source."""
        self._is_remembered = self._is_predicted = False
        return min(most, MOST, int(self._credit / self._cost + 1e-9))

    def append(self, token: int) -> None:
        """Add a token that the model chose."""
        self._generated.append(token)
        if self._predicted:
            self._predicted.append(token)
        if self._at >= len(self._ahead):
            return
        data = self._drafter.piece(token)
        agrees = self._text.startswith(data)
        self._text = self._text[len(data) :] if agrees else b""
        if token == self._ahead[self._at]:
            self._at += 1
        else:  # the same text as other tokens, or different text
            ahead = self._drafter.tokenize(self._text) if data and self._text else []
            self._ahead, self._at = ahead, 0

    def result(self, n_drafted: int, n_right: int) -> None:
        """Update the credit after a step in which `n_right` of `n_drafted` draft tokens were accepted."""
        self.counts.checked += n_drafted
        self.counts.accepted += n_right
        if self._is_predicted:
            self.counts.predicted += n_drafted
            self.counts.confirmed += n_right
        self._credit += SHARE + n_right - n_drafted * self._cost
        # The credit is capped: after a long run of accepted drafts, the next ones may fail for just as long.
        self._credit = min(self._credit, MOST * self._cost)
        if n_drafted and self._is_remembered and self._is_known:
            self._drafter.learn(n_drafted, n_right)

    def end(self) -> None:
        """Remember the completion."""
        completion = b"".join(map(self._drafter.piece, self._generated))
        self._drafter.recent.remember(self._before, completion)

    def _indexed(self) -> TokenIndex:
        """Return the index, updated with all tokens so far."""
        if self._index is None:
            self._index = TokenIndex([*self._prompt, *self._generated], self._context)
        else:
            for token in self._generated[self._n_indexed :]:
                self._index.append(token)
        self._n_indexed = len(self._generated)
        return self._index

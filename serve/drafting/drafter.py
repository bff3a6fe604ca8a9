"""Draft tokens for each request: an earlier completion at the same place, else what the text repeats."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from serve.decoder import FimTokens
from serve.drafting.token_index import MOST, TokenIndex

MOST_ENTRIES = 64  # completions that are remembered
TAIL = 256  # bytes of a prompt that are kept
LEAST = 24  # bytes before the cursor that must agree, or all that there are
LONGEST = 4096  # bytes of a completion that are kept
MOST_BYTES = 1024  # of a remembered completion that are tokenized at once
FIRST = 4  # draft tokens that a request may begin with
SHARE = 0.05  # what drafts may cost, as a part of the steps without them
# If a draft token costs more than this share of a step, text that merely repeats is too seldom right to be worth it.
DEAR = 0.45
LEARNING = (
    0.1  # weight of one draft from a remembered completion in the running share of right ones
)


class RecentCompletions:
    """The latest completions with the text before them, in bytes: tokens change with where the typing stops."""

    def __init__(self, most: int = MOST_ENTRIES) -> None:
        self._most = most
        self._entries: OrderedDict[bytes, bytes] = OrderedDict()  # end of the prompt → completion

    def __len__(self) -> int:
        return len(self._entries)

    def remember(self, prompt: bytes, completion: bytes) -> None:
        """Keep a completion; a later one for the same prompt replaces it.

        Args:
            prompt: text before the cursor; at least its last TAIL bytes.
            completion: what was generated.
        """
        if not completion:
            return
        prompt = prompt[-TAIL:]
        self._entries.pop(prompt, None)
        self._entries[prompt] = completion[:LONGEST]
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)

    def find(self, prompt: bytes) -> bytes:
        """Return the rest of a completion that, up to some place, ends like this prompt; perhaps nothing.

        The last LEAST bytes of the prompt must agree, or the whole prompt with the beginning of what is remembered. The
        longest agreement wins, of equal ones the latest completion.

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
    """Return where in a remembered text, from its cursor on but before its end, the prompt may end."""
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
    """Return the length of the longest end that both have."""
    low, high = 0, min(len(text), len(prompt))
    while low < high:
        middle = (low + high + 1) // 2
        if text[-middle:] == prompt[-middle:]:
            low = middle
        else:
            high = middle - 1
    return low


class Drafter:
    """State that the drafts of all requests share.

    Args:
        tokenize: bytes → token ids, without a begin-of-sequence token or special tokens.
        piece: the bytes of a token; nothing for a special one.
        fim: the model's ids for fill-in-the-middle, to find the text before the cursor in a prompt.
        cost: of computing one draft token along with a step, in steps; may be set once it is measured.
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
        self.recent = RecentCompletions()
        self._recent_right = 0.5  # the share of remembered tokens that were right lately

    def first_credit(self, *, remembers: bool) -> int:
        """Return how many tokens a request may draft at first: MOST if remembered completions are right enough."""
        return MOST if remembers and self._recent_right > self.cost else FIRST

    def learn(self, n_drafted: int, n_right: int) -> None:
        """Note how many tokens drafted from a remembered completion were right."""
        self._recent_right += LEARNING * (n_right / n_drafted - self._recent_right)

    def begin(self, prompt: Sequence[int], context: Sequence[int] = ()) -> Draft:
        """Return the draft of one request; `context`: tokens that it may repeat beside its prompt."""
        return Draft(self, prompt, context)

    def before_cursor(self, prompt: Sequence[int]) -> bytes:
        """Return the end of the text before the cursor: TAIL bytes, or all if there are fewer."""
        end = len(prompt)
        if self.fim and end and prompt[-1] == self.fim.middle and self.fim.suffix in prompt:
            # prefix, then suffix, then what the model writes
            while prompt[end - 1] != self.fim.suffix:
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
    """The draft tokens of one request. Each step: `propose`, then `append` what the model chose, then `result`.

    Each request has an account in units of one decode step's cost. A step earns SHARE; a draft token costs
    `drafter.cost`; a right one gives back the step that it saved. So drafts never cost more, after what they saved,
    than SHARE of the steps and the first credit.
    """

    def __init__(self, drafter: Drafter, prompt: Sequence[int], context: Sequence[int]) -> None:
        self._drafter = drafter
        self._prompt, self._context = prompt, context
        self._before = drafter.before_cursor(prompt)
        self._generated: list[int] = []
        self._index: TokenIndex | None = None
        self._n_indexed = 0
        # What is left of a remembered completion that the model has agreed with so far.
        self._text = drafter.recent.find(self._before)[:MOST_BYTES]
        self._ahead = drafter.tokenize(self._text) if self._text else []
        self._at = 0
        self._cost = max(drafter.cost, 1e-3)
        self._credit = drafter.first_credit(remembers=bool(self._ahead)) * self._cost
        self._is_remembered = False  # whether the last draft was

    def propose(self, most: int) -> list[int]:
        """Return the next tokens, as many as are likely enough and the account allows; perhaps none."""
        most = self.allowed(most)
        if most < 1:
            return []
        self._is_remembered = self._at < len(self._ahead)
        if self._is_remembered:
            return self._ahead[self._at : self._at + most]
        if not self._generated or self._drafter.cost > DEAR:
            return []  # the first token is the user's wait; the index can be built while it is read
        return self._indexed().propose(most, worth=self._drafter.cost)

    def allowed(self, most: int) -> int:
        """Return how many tokens the account allows to draft in the next step, from any source."""
        self._is_remembered = False
        return min(most, MOST, int(self._credit / self._cost + 1e-9))

    def append(self, token: int) -> None:
        """Take the token that the model chose."""
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

    def result(self, n_drafted: int, n_right: int) -> None:
        """Book a step of the model: how many tokens were drafted, and how many of them were right."""
        self._credit += SHARE + n_right - n_drafted * self._cost
        # Success is not saved up: what went well for long may fail for long.
        self._credit = min(self._credit, MOST * self._cost)
        if n_drafted and self._is_remembered:
            self._drafter.learn(n_drafted, n_right)

    def end(self) -> None:
        """Remember the completion."""
        completion = b"".join(map(self._drafter.piece, self._generated))
        self._drafter.recent.remember(self._before, completion)

    def _indexed(self) -> TokenIndex:
        """Return the index, with all tokens so far."""
        if self._index is None:
            self._index = TokenIndex([*self._prompt, *self._generated], self._context)
        else:
            for token in self._generated[self._n_indexed :]:
                self._index.append(token)
        self._n_indexed = len(self._generated)
        return self._index

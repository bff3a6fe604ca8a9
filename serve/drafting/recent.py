"""What was suggested lately, for a user who types along or comes back. Knows nothing of tokens or models."""

from __future__ import annotations

from collections import OrderedDict

MOST_ENTRIES = 64
TAIL = 256  # bytes of a prompt that are kept
LEAST = 24  # bytes before the cursor that must agree, or all that there are
LONGEST = 4096  # bytes of a suggestion that are kept


class RecentSuggestions:
    """The latest suggestions with the text before them, in bytes: tokens change with where the typing stops."""

    def __init__(self, most: int = MOST_ENTRIES) -> None:
        self._most = most
        self._entries: OrderedDict[bytes, bytes] = OrderedDict()  # end of the prompt → suggestion

    def __len__(self) -> int:
        """Number of suggestions."""
        return len(self._entries)

    def remember(self, prompt: bytes, suggestion: bytes) -> None:
        """Keep a suggestion; a later one for the same prompt replaces it.

        Args:
            prompt: text before the cursor, its last TAIL bytes at least where it is longer.
            suggestion: what was generated.
        """
        if not suggestion:
            return
        prompt = prompt[-TAIL:]
        self._entries.pop(prompt, None)
        self._entries[prompt] = suggestion[:LONGEST]
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)

    def find(self, prompt: bytes) -> bytes:
        """What came next in a suggestion where it, or its beginning, ends like this prompt.

        The last LEAST bytes of the prompt must agree, or the whole prompt with the beginning of what is
        remembered; the longest agreement wins, of equal ones the latest suggestion.

        Args:
            prompt: text before the cursor, its last TAIL bytes at least where it is longer.

        Returns:
            The rest of that suggestion, perhaps nothing.
        """
        prompt = prompt[-TAIL:]
        best, longest, key = b"", -1, b""
        for before, suggestion in reversed(self._entries.items()):
            text = before + suggestion
            for end in _ends(text, prompt, len(before)):
                agree = _agreement(text[:end], prompt)
                if agree > longest:
                    best, longest, key = text[end:], agree, before
        if best:
            self._entries.move_to_end(key)
        return best


def _ends(text: bytes, prompt: bytes, cursor: int) -> list[int]:
    """Where in a remembered text, from its cursor on but before its end, the prompt may end."""
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
    """Length of the longest end that both have."""
    low, high = 0, min(len(text), len(prompt))
    while low < high:
        middle = (low + high + 1) // 2
        if text[-middle:] == prompt[-middle:]:
            low = middle
        else:
            high = middle - 1
    return low

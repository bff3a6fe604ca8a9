"""Token bytes → text that may be shown. Knows nothing of models, HTTP or threads.

Two things make a token's bytes uncertain: they may end inside a UTF-8 character, and their text may be
the beginning of a stop string. Both are held back until a later token decides.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable


class TextStream:
    """Feeds bytes in, gets certain text out; the total does not depend on how the bytes were cut.

    The stop string that is complete first ends the text; of two that end at the same character, the
    longer one. The text is cut before it.
    """

    def __init__(self, rules) -> None:
        stop = rules.strings; self.stop_string = ''
        self._stop = tuple(dict.fromkeys(s for s in stop if s))
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self.stopped = False

    def feed(self, data: bytes) -> str:
        """Text that is certain now, perhaps none. After a stop string: always none."""
        if self.stopped:
            return ""
        text = self._held + self._decoder.decode(data)
        cut = self._first_stop(text)
        if cut is not None:
            self.stopped = True
            self._held = ""
            return text[:cut]
        keep = len(text) - self._possible_stop(text)
        self._held = text[keep:]
        return text[:keep]

    def finish(self) -> str:
        """What was held back, now that nothing follows. Half a character is dropped: it is no text."""
        held, self._held = self._held, ""
        self._decoder.reset()
        return held

    def _first_stop(self, text: str) -> int | None:
        """Where the stop string that ends first begins."""
        found = [(at + len(s), at) for s in self._stop if (at := text.find(s)) >= 0]
        return min(found)[1] if found else None

    def _possible_stop(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = max((len(s) for s in self._stop), default=1) - 1
        for n in range(min(longest, len(text)), 0, -1):
            tail = text[-n:]
            if any(s.startswith(tail) for s in self._stop):
                return n
        return 0

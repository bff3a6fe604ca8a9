"""A server in this process whose model completes every fill-in-the-middle prompt with a given text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.support.fakes import EOG, FIM, FakeDecoder, Reply
from tests.support.serving import running

HOSTILE = (
    '<script>document.title = "run"</script><img src=x onerror="document.title = \'run\'">'
    "\u202e\u2066 reversed \u2069\x1b[31m red \x1b]0;title\x07&lt;&amp;"
)
"""Markup, bidirectional controls and escape sequences, which a page must show as text."""


def saying(text: str) -> Reply:
    """Return a reply that generates `text` after the last fill-in-the-middle prompt."""
    tokens: list[int] = [*text.encode(), EOG]

    def reply(history: Sequence[int]) -> int:
        if FIM.middle not in history:
            return EOG
        done = [*reversed(history)].index(FIM.middle)
        return tokens[min(done, len(tokens) - 1)]  # draft tokens may go beyond the end

    return reply


@contextmanager
def talking_server(text: str, decoder: FakeDecoder | None = None) -> Iterator[str]:
    """Yield the URL of a server whose completions are `text`; another decoder may say when."""
    decoder = decoder or FakeDecoder(saying(text), n_ctx=1 << 14, n_batch=512)
    with running(decoder) as r:
        yield f"http://127.0.0.1:{r.port}"

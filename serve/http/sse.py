"""JSON as clients want it: compact, on one line, alone or framed for a stream. Knows nothing of Flask.

Compact matters: an editor plugin looks for `"content":"` in the bytes and is silently disabled by a space.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

DONE: Final = b"data: [DONE]\n\n"


def json_bytes(value: Mapping[str, object] | Sequence[Mapping[str, object]]) -> bytes:
    """One line of UTF-8. Halves of surrogate pairs, which an error may tell of a client's text, become "?"."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "replace")


def sse_frame(value: Mapping[str, object]) -> bytes:
    """One server-sent event."""
    return b"data: " + json_bytes(value) + b"\n\n"


def ndjson_line(value: Mapping[str, object]) -> bytes:
    """One line of newline-delimited JSON, as Ollama streams."""
    return json_bytes(value) + b"\n"

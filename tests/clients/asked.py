"""What the live tests ask for: bodies of /v1/completions that every client sends in its own way. Data only."""

from __future__ import annotations

from typing import Any

MODEL = "codegen"
# Greedy, so that a stream and a plain answer can be compared.
PLAIN: dict[str, Any] = {
    "model": MODEL, "prompt": "def fibonacci(n):\n    ", "max_tokens": 24, "temperature": 0,
}  # fmt: skip
PREFIX = "def add(a, b):\n    return "
SUFFIX = "\n\n\nprint(add(1, 2))\n"
FIM: dict[str, Any] = {**PLAIN, "prompt": PREFIX, "suffix": SUFFIX}
# The same, framed by the client.
FRAMED: dict[str, Any] = {
    **PLAIN,
    "prompt": f"<fim_prefix>{PREFIX}<fim_suffix>{SUFFIX}<fim_middle>",
}
# The bundled model's tokens that end a text.
ENDS_OF_TEXT = (4022, 4061, 4062, 4063)
# So much that no machine is done before the client gives up.
LONG: dict[str, Any] = {
    "model": MODEL, "prompt": "ROWS = [\n" + "    (0, 0),\n" * 8, "max_tokens": 900, "n": 16, "temperature": 1,
    "top_p": 1, "logit_bias": {str(token): -100 for token in ENDS_OF_TEXT},
}  # fmt: skip
KEY = "a-key-of-the-tests"
WRONG_KEY = "not-that-key"

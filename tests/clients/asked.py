"""Request bodies of /v1/completions for the live tests. Data only."""

from __future__ import annotations

from typing import Any

MODEL = "codegen"
# Greedy, so that a streamed and a plain response can be compared.
PLAIN: dict[str, Any] = {
    "model": MODEL, "prompt": "def fibonacci(n):\n    ", "max_tokens": 24, "temperature": 0,
}  # fmt: skip
PREFIX = "def add(a, b):\n    return "
SUFFIX = "\n\n\nprint(add(1, 2))\n"
FIM: dict[str, Any] = {**PLAIN, "prompt": PREFIX, "suffix": SUFFIX}
# The same request with the FIM tokens in the prompt, in the bundled model's order, as some clients send it.
FRAMED: dict[str, Any] = {
    **PLAIN,
    # In the order of the bundled model, so that the completion is that of FIM.
    "prompt": f"<fim_prefix><fim_suffix>{SUFFIX}<fim_middle>{PREFIX}",
}
# The end-of-generation tokens of the bundled model.
ENDS_OF_TEXT = (4022, 4061, 4062, 4063)
# Long enough that the client cancels it before it is complete, on any machine.
LONG: dict[str, Any] = {
    "model": MODEL, "prompt": "ROWS = [\n" + "    (0, 0),\n" * 8, "max_tokens": 900, "n": 16, "temperature": 1,
    "top_p": 1, "logit_bias": {str(token): -100 for token in ENDS_OF_TEXT},
}  # fmt: skip
KEY = "a-key-of-the-tests"
WRONG_KEY = "not-that-key"

"""Options of the log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from serve.options import Option

# A table, one option a field:
# fmt: off

@dataclass(frozen=True, slots=True)
class LogOptions:
    """Contents and format of the log on stderr."""

    form: Annotated[Literal["text", "json"], Option(
        "--log-format", "Format of the log on stderr (text, json). json writes one object per line.",
    )] = "text"
    prompts: Annotated[bool, Option(
        "--log-prompts/--no-log-prompts", "Log prompts and completions in full. Anyone who can read the log can then "
        "read your code. API keys are never logged.",
    )] = False
    debug: Annotated[bool, Option(
        "--debug/--no-debug", "Log debug messages and llama.cpp's own log. Does not log prompts.",
    )] = False

# fmt: on

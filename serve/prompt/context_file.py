"""Another file of the project, as context of a prompt."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ContextFile:
    """Another file, or a part of one, that the prompt has before the edited file."""

    name: str
    text: str

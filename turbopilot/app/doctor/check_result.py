"""Result of one check of `turbopilot doctor`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Health: TypeAlias = Literal["ok", "warning", "problem", "skipped"]
"""ok; it works, but less well than it could; it does not work; not checked."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Result of a check.

    Attributes:
        name: name of the check.
        found: what was found.
        remedy: what to do; "" if nothing.
        reinstall: whether compiling llama.cpp again is the remedy.
    """

    name: str
    state: Health
    found: str
    remedy: str = ""
    reinstall: bool = False


def is_well(findings: Iterable[CheckResult]) -> bool:
    """Return whether no check found a problem or a reason for a warning."""
    return all(f.state in ("ok", "skipped") for f in findings)

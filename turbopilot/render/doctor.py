"""Output of `turbopilot doctor`: a paragraph for each check, and JSON."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from turbopilot.app.doctor import CheckResult, is_well
from turbopilot.base.backends import Reinstallation
from turbopilot.base.counts import count
from turbopilot.render import console

_STATE, _NAME = 9, 11  # columns
_INDENT: Final = " " * (_STATE + _NAME)


def as_json(findings: Sequence[CheckResult], fix: Reinstallation | None) -> dict[str, Any]:
    """Return all findings, and the command that compiles llama.cpp again, if that is the remedy of one."""
    command = {"backend": fix.backend.name, "command": fix.shell} if fix else None
    return {
        "ok": is_well(findings),
        "checks": [{k: v for k, v in asdict(f).items() if k != "reinstall"} for f in findings],
        "fix": command,
    }


def show(findings: Sequence[CheckResult]) -> None:
    """Print each finding with its remedy, and a summary."""
    for f in findings:
        _paragraph(f"{f.state:<{_STATE}}{f.name:<{_NAME}}{f.found}")
        if f.remedy:
            _paragraph(f"{_INDENT}→ {f.remedy}")
    states = [f.state for f in findings]
    bad = [count(n, state) for state in ("problem", "warning") if (n := states.count(state))]
    console.result("\n" + (", ".join(bad) if bad else "all is well"))


def _paragraph(text: str) -> None:
    width = shutil.get_terminal_size().columns
    lines = textwrap.wrap(
        text, width, subsequent_indent=_INDENT, break_long_words=False, break_on_hyphens=False
    )
    console.result("\n".join(lines))

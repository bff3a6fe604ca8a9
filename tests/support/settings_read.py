"""Reads settings of any format as their programs would, so that a test sees which strings are in them."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
from typing import Any

import pytest


def strings(value: Any) -> list[str]:
    """All strings of a parsed file."""
    if isinstance(value, dict):
        return [s for v in value.values() for s in strings(v)]
    if isinstance(value, list):
        return [s for v in value for s in strings(v)]
    return [value] if isinstance(value, str) else []


LITERAL = re.compile(r'"((?:[^"\\]|\\.)*)"')


def literals(text: str) -> list[str]:
    """What stands in double quotes, read as JSON reads it; what is left must have balanced brackets."""
    balanced = LITERAL.sub("", text)
    for opening, closing in ("()", "{}", "[]"):
        assert balanced.count(opening) == balanced.count(closing), text
    assert '"' not in balanced
    return [json.loads(m[0]) for m in LITERAL.finditer(text)]


def words(script: str) -> list[str]:
    """What the shell would give to the one command in it, or put into the variable that it exports."""
    if export := re.match(r"export (\w+)=", script):
        script += f'\nprintf "%s" "${export[1]}"'
    else:
        script = script.replace(script.split()[0], "printf '%s\\n'", 1)
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split("\n")


def parsed(text: str, kind: str) -> list[str]:
    """The strings in it, by a real parser where there is one at hand."""
    if kind == "json":
        return strings(json.loads(text))
    if kind == "toml":
        return strings(pytest.importorskip("tomllib").loads(text))
    if kind == "yaml":
        return strings(importlib.import_module("yaml").safe_load(text))
    if kind == "python":
        constants = (n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant))
        return [c for c in constants if isinstance(c, str)]
    if kind == "vim":
        return [m[1].replace("''", "'") for m in re.finditer(r"'((?:[^']|'')*)'", text)]
    if kind == "sh":
        return words(text)
    if kind == "text":
        return [line.split("  ", 1)[1].strip() for line in text.splitlines()]
    return literals(text)  # lua, elisp, javascript

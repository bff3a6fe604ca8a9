"""Readers of editor settings in any format, which return the strings in them."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
from typing import Any

import pytest


def strings(value: Any) -> list[str]:
    """Return all strings of a parsed file."""
    if isinstance(value, dict):
        return [s for v in value.values() for s in strings(v)]
    if isinstance(value, list):
        return [s for v in value for s in strings(v)]
    return [value] if isinstance(value, str) else []


LITERAL = re.compile(r'"((?:[^"\\]|\\.)*)"')


def literals(text: str) -> list[str]:
    """Return the double-quoted strings, parsed as JSON; check that the brackets around them are balanced."""
    balanced = LITERAL.sub("", text)
    for opening, closing in ("()", "{}", "[]"):
        assert balanced.count(opening) == balanced.count(closing), text
    assert '"' not in balanced
    return [json.loads(m[0]) for m in LITERAL.finditer(text)]


def words(script: str) -> list[str]:
    """Return the arguments that a shell passes to the script's one command, or the value of the exported variable."""
    if export := re.match(r"export (\w+)=", script):
        script += f'\nprintf "%s" "${export[1]}"'
    else:
        script = script.replace(script.split()[0], "printf '%s\\n'", 1)
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split("\n")


def parsed(text: str, kind: str) -> list[str]:
    """Return the strings in a text, with a real parser for all formats but Lua, Elisp and JavaScript."""
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

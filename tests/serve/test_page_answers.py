"""The page's TypeScript types of `/status` have the fields that serve/api declares."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from typing_extensions import NotRequired

from serve.api import health, status

SOURCE = Path(__file__).parents[2] / "serve/page/src"
TEXT = "".join(
    (SOURCE / name).read_text("utf-8") for name in ("status/answers.ts", "setup/editors.ts")
)
# Interface → body. `EditorGroup` is the page's own.
INTERFACES = {
    name: body
    for name, body in re.findall(r"export interface (\w+) {\n(.*?)\n}", TEXT, re.DOTALL)
    if name != "EditorGroup"
}


def answer_of(name: str) -> Any:
    return getattr(status, name, None) or getattr(health, name)


@pytest.mark.parametrize("name", INTERFACES)
def test_interface_has_the_fields_of_the_answer(name: str) -> None:
    answer = answer_of(name)
    fields = dict(re.findall(r"^  (\w+\??): (.+);$", INTERFACES[name], re.MULTILINE))
    hints = get_type_hints(answer, include_extras=True)
    assert set(fields) == {f"{f}?" if get_origin(h) is NotRequired else f for f, h in hints.items()}


@pytest.mark.parametrize("name", INTERFACES)
def test_interface_has_the_words_of_the_answer(name: str) -> None:
    fields = dict(re.findall(r"^  (\w+)\??: (.+);$", INTERFACES[name], re.MULTILINE))
    for field, hint in get_type_hints(answer_of(name)).items():
        if get_origin(hint) is Literal:
            assert set(re.findall(r'"(\w+)"', fields[field])) == set(map(str, get_args(hint))), (
                field
            )


def test_every_answer_of_the_status_has_an_interface() -> None:
    answers = {
        n
        for n, v in vars(status).items()
        if hasattr(v, "__required_keys__") and v.__module__ == status.__name__
    }
    assert answers - set(INTERFACES) == {"ModelChanged"}

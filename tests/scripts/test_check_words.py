"""The check of the English finds the dialect, and leaves plain sentences alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from check_words import check_python, check_text  # noqa: E402


def rules(source: str) -> list[str]:
    return [f.rule for f in check_python("serve/example.py", source)]


@pytest.mark.parametrize(
    ("docstring", "rule"),
    [
        ("It.", "one word"),
        ("Its own way.", "pronoun"),
        ("What nobody sees.", "pronoun"),
        ("Return the id; -1 where there is none.", "where"),
        ("Raise what is no number.", "is no"),
        ("Say what it was told.", "told"),
        ("Return a file of so many bytes.", "quaint"),
        ("Make the file anew.", "quaint"),
        ("Drop a wrong guess.", "guess"),
        ("The port of the server.", "not imperative"),
        ("Whether it runs.", "not imperative"),
    ],
)
def test_docstring_in_the_dialect_is_found(docstring: str, rule: str) -> None:
    assert rule in rules(f'def f():\n    """{docstring}"""\n')


@pytest.mark.parametrize(
    "docstring",
    [
        "Return the port of the server.",
        "Return the folder where files are kept.",
        "Raise if there is no such file.",
        "Return whether it is no longer needed.",
        "Return whether the engine runs.",
    ],
)
def test_plain_docstring_passes(docstring: str) -> None:
    assert rules(f'def f():\n    """{docstring}"""\n') == []


def test_noun_phrase_may_describe_a_property() -> None:
    assert (
        rules(
            'class Server:\n    @property\n    def port(self):\n        """The port of the server."""\n'
        )
        == []
    )


def test_comments_and_messages_are_checked() -> None:
    assert rules("x = 1  # nobody reads it\n") == ["nobody"]
    assert rules('raise ValueError("the field is no number")\n') == ["is no"]


def test_strings_of_tests_are_data() -> None:
    assert list(check_python("tests/test_a.py", 'text = "the field is no number"\n')) == []


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("test_it_works", True),
        ("test_what_is_told_is_told", True),
        ("test_a_pad_that_is_no_row", True),
        ("test_truncated_tensor_is_rejected", False),
    ],
)
def test_name_of_a_test_states_the_behaviour(name: str, found: bool) -> None:
    assert rules(f"def {name}():\n    pass\n") == (["test name"] if found else [])


def test_document_is_checked_outside_its_code() -> None:
    page = "One is told.\n\n```sh\nis told\n```\n"
    assert [(f.line, f.rule) for f in check_text("docs/a.md", page)] == [(1, "told")]

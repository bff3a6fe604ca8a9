"""Quotes of values from files stay short."""

from __future__ import annotations

import pytest

from turbopilot.base.errors import MOST_CHARACTERS, CorruptModel
from turbopilot.base.quoting import MOST_QUOTED, quoted, shortened


@pytest.mark.parametrize("value", ["", "blk.0", b"PK", 7, -1.5, None, [1, 2], (3, 4), {"a": 1}])
def test_short_value_is_quoted_whole(value: object) -> None:
    assert quoted(value) == repr(value)


@pytest.mark.parametrize(
    "value",
    [
        "a" * 101, "\n" * 100, "\x00" * 10**6, "é'\"" * 50, b"\xff" * 10**6, [1] * 10**6, ["a" * 10**6] * 10**4,
        {str(i): i for i in range(1000)}, 10**5000, -(10**5000), ((1,) * 1000,), {"a" * 1000},
    ],
    ids=range(12),
)  # fmt: skip
def test_long_value_is_cut(value: object) -> None:
    assert len(quoted(value)) <= MOST_QUOTED


def test_long_text_is_cut() -> None:
    assert shortened("a" * 100) == "a" * 100
    assert shortened("a" * 101) == "a" * 97 + "..."


def test_error_message_has_an_end() -> None:
    assert len(CorruptModel("x" * 10**7).message) == MOST_CHARACTERS

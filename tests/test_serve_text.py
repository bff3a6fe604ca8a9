from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.text import TextStream


def stream(data: bytes, stop: list[str], cuts: list[int]) -> tuple[str, bool]:
    text = TextStream(stop)
    at = sorted({0, len(data), *(c % (len(data) + 1) for c in cuts)})
    out = "".join(text.feed(data[a:b]) for a, b in pairwise(at))
    return out + text.finish(), text.stopped


# A small alphabet, so that stop strings do appear, with characters of 1 to 4 bytes.
alphabet = st.text(st.sampled_from("ab\né→🙂"), max_size=30)
stops = st.lists(st.text(st.sampled_from("ab\né→🙂"), max_size=4), max_size=4)


@given(alphabet, stops, st.lists(st.integers(0, 200), max_size=12))
def test_any_chunking_equals_the_whole(text: str, stop: list[str], cuts: list[int]) -> None:
    assert stream(text.encode(), stop, cuts) == stream(text.encode(), stop, [])


@given(st.binary(max_size=30), st.lists(st.integers(0, 200), max_size=12))
def test_any_chunking_of_any_bytes_equals_the_whole(data: bytes, cuts: list[int]) -> None:
    assert stream(data, [], cuts) == stream(data, [], [])


@given(alphabet, stops)
def test_nothing_of_a_stop_string_comes_out(text: str, stop: list[str]) -> None:
    out, stopped = stream(text.encode(), stop, list(range(200)))
    present = [s for s in stop if s and s in text]
    assert stopped == bool(present)
    if not stopped:
        assert out == text
    assert text.startswith(out)
    assert not any(s in out for s in stop if s)


def test_holds_back_only_what_may_become_a_stop() -> None:
    text = TextStream(["\n\n"])
    assert text.feed(b"x = 1\n") == "x = 1"
    assert text.feed(b"y") == "\ny"
    assert text.feed(b"\n\nmore") == ""
    assert text.stopped
    assert text.feed(b"z") == text.finish() == ""


@pytest.mark.parametrize(
    ("stop", "expected"),
    [(["b", "abc"], "xa"), (["ab", "b"], "x"), (["", "c"], "xab"), (["zz"], "xabcd")],
)
def test_the_stop_that_is_complete_first_wins(stop: list[str], expected: str) -> None:
    assert stream(b"xabcd", stop, list(range(9)))[0] == expected


def test_half_a_character_is_held_and_dropped_at_the_end() -> None:
    text = TextStream()
    assert text.feed("→".encode()[:2]) == ""
    assert text.feed("→".encode()[2:]) == "→"
    assert text.feed("🙂".encode()[:3]) == ""
    assert text.finish() == ""

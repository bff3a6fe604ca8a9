from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.request import StopRules
from serve.text import TextStream

EVERYWHERE = list(range(400))


def stream(data: bytes, rules: StopRules, cuts: list[int]) -> tuple[str, bool, str]:
    text = TextStream(rules)
    at = sorted({0, len(data), *(c % (len(data) + 1) for c in cuts)})
    out = "".join(text.feed(data[a:b]) for a, b in pairwise(at))
    out += text.finish()
    assert text.feed(b"more") == text.finish() == "" or not text.stopped
    return out, text.stopped, text.stop_string


def told(text: str, rules: StopRules) -> str:
    return stream(text.encode(), rules, EVERYWHERE)[0]


# Small alphabets, so that stop strings do occur, with characters of 1 to 4 bytes.
letters = st.text(st.sampled_from("ab\né→🙂"), max_size=30)
stops = st.lists(st.text(st.sampled_from("ab\né→🙂"), max_size=4), max_size=4).map(tuple)
cuts = st.lists(st.integers(0, 200), max_size=12)
words = [
    "    ", "\t", " ", "\n", "\r\n", "\r", "}", ")", "foo(", '"', "return x", "total = add(x, y)", ";", "\\",
]  # fmt: skip
code = st.lists(st.sampled_from(words), max_size=16).map("".join)
rules = st.builds(
    StopRules,
    strings=st.lists(st.sampled_from(["\n\n", "}", "\nreturn", "x)", "foo"]), max_size=2).map(
        tuple
    ),
    single_line=st.booleans(),
    n_indent=st.sampled_from([0, 0, 1, 4]),
    follows=code,
)


@given(letters, stops, cuts)
def test_stop_strings_are_found_in_any_chunking(
    text: str, stop: tuple[str, ...], cuts: list[int]
) -> None:
    data, rules = text.encode(), StopRules(stop)
    assert stream(data, rules, cuts) == stream(data, rules, [])


@given(st.binary(max_size=30), cuts)
def test_chunking_of_arbitrary_bytes_does_not_change_the_text(data: bytes, cuts: list[int]) -> None:
    assert stream(data, StopRules(), cuts) == stream(data, StopRules(), [])


@given(code, rules, cuts)
def test_chunking_does_not_change_the_text_under_stop_rules(
    text: str, rules: StopRules, cuts: list[int]
) -> None:
    data = text.encode()
    whole = stream(data, rules, [])
    assert stream(data, rules, cuts) == whole == stream(data, rules, EVERYWHERE)
    assert text.startswith(whole[0])
    assert whole[1] or rules.follows.strip() or whole[0] == text


@given(code, code, cuts)
def test_completion_ends_before_a_repeated_suffix(text: str, rest: str, cuts: list[int]) -> None:
    """Check that any text followed by the whole suffix ends before the suffix, or earlier."""
    follows = "\n    total = sum(values)\n    return total\n" + rest
    out, stopped, _ = stream((text + follows).encode(), StopRules(follows=follows), cuts)
    assert stopped or not out.strip()
    assert (text + follows).startswith(out)
    assert "total = sum(values)" not in out


@given(letters, stops)
def test_stop_string_that_is_complete_first_ends_the_text(text: str, stop: tuple[str, ...]) -> None:
    out, stopped, found = stream(text.encode(), StopRules(stop), EVERYWHERE)
    ends = [(text.find(s) + len(s), -len(s), s) for s in stop if s and s in text]
    if not ends:
        assert (out, stopped, found) == (text, False, "")
        return
    end, minus_length, first = min(ends)
    assert (out, stopped, found) == (text[: end + minus_length], True, first)


def test_only_a_partial_stop_string_is_held_back() -> None:
    text = TextStream(StopRules(("\n\n",)))
    assert text.feed(b"x = 1\n") == "x = 1"
    assert text.feed(b"y") == "\ny"
    assert text.feed(b"\n\nmore") == ""
    assert text.stopped
    assert text.stop_string == "\n\n"
    assert text.feed(b"z") == text.finish() == ""


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (("b", "abc"), "xa"), (("ab", "b"), "x"), (("", "c"), "xab"), (("zz",), "xabcd"),
        (("xabx", "abz", "bc"), "xa"), (("xabz", "abcd", "b\U0010ffff"), "x"),
    ],
)  # fmt: skip
def test_stop_string_that_is_complete_first_wins(stop: tuple[str, ...], expected: str) -> None:
    assert told("xabcd", StopRules(stop)) == expected


NEXT = "\n    return compute(total)\n\ndef main():\n"


@pytest.mark.parametrize(
    ("text", "follows", "expected"),
    [
        # the next line, at its indentation
        ("total += x\n    return compute(total)\n\ndef main", NEXT, "total += x"),
        ("total += x\r\n    return compute(total)\r\n", NEXT, "total += x"),
        ("total += x\n    return compute(total)", NEXT, "total += x"),
        ("total += x\n\n    return compute(total)\n", NEXT, "total += x\n"),
        ("return compute(total)\n    x", NEXT, ""),
        ("\n    return compute(total)\n", NEXT, ""),
        # not a repetition: other indentation, a longer line, or an incomplete one
        ("if x:\n        return compute(total)\n    y = 2", NEXT, None),
        ("x\n    return compute(total) + 1\n", NEXT, None),
        ("x\n    return comp", NEXT, None),
        # short lines count only if the following lines match, too
        ("x();\n}\n\ny();\n}\nz", "\n}\n\nfunction other() {\n", None),
        ("x();\n}\nfunction other() {\n", "\n}\n\nfunction other() {\n", "x();"),
        ("x();\n}\n}\nfunction other() {\n", "\n}\nfunction other() {\n", "x();\n}"),
        ("y\n    return\n    z", "\n    return\n", None),
        # at its end, a completion may repeat a closing bracket of the suffix, unless it opened that bracket
        ("return 1;\n}", "\n}\n", "return 1;"),
        ("return 1;\n}\n", "\n}\n", "return 1;"),
        ("if (x) {\n}", "\n}\n", None),
        ("return 1;\n  }", "\n}\n", None),
        ("y\n    return", "\n    return\n", None),
        # the rest of the line
        ("x, y):\n    return", "):\n    pass\n", "x, y"),
        ("x, y):", "):\n", "x, y"),
        ("x, y)", ")\n", "x, y"),
        ("x, y)\nprint(z)\n", ")\n", None),
        ("x, y)\nreturn add(x, y)\n", ")\nreturn add(x, y)\n", "x, y"),
        ("bar()", ")\n", None),
        ("max(a, b), [c]);\n", ");\n", "max(a, b), [c]"),
        ("f(a);\n", ");\n", None),
        ('hello"', '"\n', "hello"),
        ('hello")\n', '")\n', "hello"),
        ('x + "hello"', '"\n', None),
        ('"a)", b)', ")\n", '"a)", b'),
        ("width + offset\n", " + offset\n", "width"),
        ("if a: pass\n    return x\n    y", "return x\n", None),
        ("if a: pass\n    return x", "return x\n", "if a: pass\n    "),
        ("\n  it(() => {\n    x();\n  });\n  y();\n});\nmore", "});\n", "\n  it(() => {\n    x();\n  });\n  y();\n"),
        # a line that is too long to be compared
        ("x" * 2000 + ")\n", "x" * 2000 + ")\n", None),
    ],
)  # fmt: skip
def test_completion_ends_before_a_repetition(text: str, follows: str, expected: str | None) -> None:
    out = told(text, StopRules(follows=follows))
    assert out == (text if expected is None else expected)


def test_rest_of_the_line_is_removed_after_other_stop_rules() -> None:
    assert told('"hello")\nprint()', StopRules(single_line=True, follows=")\n")) == '"hello"'
    assert told('"hello")\nprint()', StopRules(strings=("\n",), follows=")\n")) == '"hello"'


def test_stop_string_is_empty_if_a_repetition_ended_the_text() -> None:
    rules = StopRules(("###",), follows="\n    return compute(total)\n")
    assert stream(b"x\n    return compute(total)\n###", rules, []) == ("x", True, "")
    assert stream(b"x\n    y ###", rules, []) == ("x\n    y ", True, "###")


@given(st.lists(st.sampled_from(words), max_size=40), code)
def test_held_back_text_is_limited(parts: list[str], follows: str) -> None:
    text = TextStream(StopRules(follows=follows))
    held = 0
    longest = max(len(line) for line in follows.split("\n"))
    for part in parts:
        held += len(part) - len(text.feed(part.encode()))
        if text.stopped:
            return
        assert held <= len(follows) + longest + 8 + 2 * parts.count("\n") + 2 * parts.count("\r\n")

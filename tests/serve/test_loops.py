"""The rule that ends completions in loops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.http.app import create_app
from serve.request import StopRules
from serve.settings import TextOptions
from serve.text import TextStream
from serve.text.loops import LONGEST, Loops
from tests.support.fakes import FakeDecoder, script
from tests.support.serving import ROOT, make_service, pool_of

LINE = "        self.assertEqual(b, b)\n"


def ended(text: str, n: int = 7) -> tuple[str, bool]:
    """Return what is left of a text that comes in pieces of `n` characters, and whether the rule ended it."""
    loops, out = Loops(), ""
    for at in range(0, len(text), n):
        out += loops.feed(text[at : at + n])
        if loops.stopped:
            return out, True
    return out + loops.finish(), False


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (3 * LINE, 2 * LINE),
        (9 * LINE, 2 * LINE),
        ("x = 1\n" + 4 * LINE, "x = 1\n" + 2 * LINE),
        (4 * "    if a:\n        return b\n", 2 * "    if a:\n        return b\n"),
        (4 * (LINE + "\n"), 2 * (LINE + "\n")),
        (6 * "foo(bar, baz), ", 3 * "foo(bar, baz), "),
        (5 * "the best of ", 3 * "the best of "),
        (12 * "    pass\n", 4 * "    pass\n"),
    ],
)
def test_text_ends_before_the_copy_that_is_one_too_many(text: str, left: str) -> None:
    assert ended(text) == (left, True)


@pytest.mark.parametrize(
    "text",
    [
        2 * LINE,
        2 * LINE + LINE[:-3] + "c)\n",
        3 * "foo(bar, baz), " + "foo(bar, qux)",
        20 * "}\n",
        "# " + 78 * "-" + "\n",
        "x = 1" + 9 * "\n" + "y = 2",
        "".join(f"    x{i} = {i}\n" for i in range(50)),
    ],
)
def test_other_repetitions_are_kept(text: str) -> None:
    assert ended(text) == (text, False)


def test_line_that_began_before_the_cursor_counts() -> None:
    loops = Loops(LINE[:20])
    assert loops.feed(LINE[20:] + 4 * LINE) == LINE[20:] + LINE
    assert loops.stopped


def test_row_of_numbers_ends_late() -> None:
    left, stopped = ended("[" + 200 * "0, ")
    assert stopped
    assert 30 < left.count("0") < 60


def test_last_line_without_newline_is_left_out_at_the_end() -> None:
    assert ended(3 * LINE.rstrip("\n") + "\n")[1] is False
    assert ended(2 * LINE + LINE.rstrip("\n")) == (2 * LINE, False)


@given(
    st.lists(st.sampled_from([LINE, "a, ", "b\n", "    pass\n", "return x\n"]), max_size=30),
    st.integers(1, 40),
)
def test_result_does_not_depend_on_the_pieces(parts: list[str], n: int) -> None:
    text = "".join(parts)
    left, stopped = ended(text, 1)
    assert (left, stopped) == ended(text, n)
    assert text.startswith(left)
    assert stopped or text.removeprefix(left).strip("\n") in ("", LINE.strip("\n"), "    pass")


def test_long_text_is_forgotten() -> None:
    loops = Loops()
    for i in range(2000):
        loops.feed(f"x{i} = compute({i * i})\n")
    assert len(loops._text) < 8 * LONGEST


@pytest.mark.parametrize("file", sorted((ROOT / "serve").rglob("*.py")), ids=lambda p: p.name)
def test_source_code_is_kept(file: Path) -> None:
    text = file.read_text("utf-8")
    assert ended(text) == (text, False)


def test_rule_is_one_of_the_stop_rules() -> None:
    stream = TextStream(StopRules(loops=True))
    assert stream.feed(5 * LINE.encode()) == 2 * LINE
    assert stream.stopped
    assert TextStream().feed(5 * LINE.encode()) == 5 * LINE


@pytest.mark.parametrize(
    ("path", "body", "read"),
    [
        ("/v1/completions", {"prompt": "?"}, lambda a: a["choices"][0]["text"]),
        ("/completion", {"prompt": "?"}, lambda a: a["content"]),
        (
            "/infill",
            {"input_prefix": "", "input_suffix": "", "prompt": "?"},
            lambda a: a["content"],
        ),
        ("/api/generate", {"prompt": "?", "stream": False}, lambda a: a["response"]),
        ("/api/generate", {"inputs": "?"}, lambda a: a["generated_text"]),
    ],
)
@pytest.mark.parametrize("ends_loops", [True, False])
def test_loops_end_in_every_dialect_unless_turned_off(
    path: str, body: dict[str, object], read: Callable[..., str], ends_loops: bool
) -> None:
    line = "aa = bb(cc)\n"
    decoder = FakeDecoder(script(5 * line), n_ctx=512, fim=None)
    service, runner = make_service(decoder, text=TextOptions(heals=False, ends_loops=ends_loops))
    runner.start()
    with create_app(pool_of(service)).test_client() as client:
        got = client.post(path, json=body | {"temperature": 0})
    runner.close()
    assert got.json
    assert read(got.json) == (2 if ends_loops else 5) * line

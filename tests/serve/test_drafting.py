from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.drafting import Draft, Drafter
from serve.drafting.drafter import FIRST, LEAST, MOST_ENTRIES, SHARE, TAIL, RecentCompletions
from serve.drafting.token_index import FARTHEST, KEY, MOST, PLACES, TokenIndex
from serve.prompt.bound_layout import FimLayouts
from serve.prompt.layout_choice import choose_layouts

CORPUS = Path(__file__).parents[2] / "turbopilot/corpus/held_out"
CODE = """def area(width, height):
    if width < 0:
        raise ValueError("width is negative")
    if height < 0:
        raise ValueError("height is negative")
    return width * height
"""
FIM_KEYS = {
    f"tokenizer.ggml.fim_{role}_token_id": 1001 + i for i, role in enumerate(("pre", "suf", "mid"))
}
FIM = choose_layouts({"tokenizer.ggml.tokens": [f"{i}" for i in range(1004)], **FIM_KEYS})


class Words:
    """Tokenizer that splits text into words; ids from 1000 on are special tokens."""

    def __init__(self) -> None:
        self.ids: dict[bytes, int] = {}
        self.pieces: list[bytes] = []
        self.n_calls = 0

    def __call__(self, data: bytes) -> list[int]:
        self.n_calls += 1
        return [self.id(w) for w in re.findall(rb" ?\w+|\s+|.", data, re.DOTALL)]

    def id(self, word: bytes) -> int:
        if word not in self.ids:
            self.ids[word] = len(self.pieces)
            self.pieces.append(word)
        return self.ids[word]

    def piece(self, token: int) -> bytes:
        return self.pieces[token] if token < 1000 else b""


def drafter(*, cost: float = 0.01, fim: FimLayouts | None = None) -> tuple[Drafter, Words]:
    words = Words()
    return Drafter(words, words.piece, fim=fim, cost=cost), words


def generate(draft: Draft, tokens: list[int], most: int = MOST) -> tuple[int, int, int]:
    """Simulate a model that generates these tokens; return (steps, drafted tokens, accepted tokens)."""
    at = steps = drafted = accepted = 0
    while at < len(tokens):
        guess = draft.propose(most)
        right = 0
        while (
            right < len(guess)
            and at + right < len(tokens) - 1
            and guess[right] == tokens[at + right]
        ):
            right += 1
        for token in tokens[at : at + right + 1]:
            draft.append(token)
        draft.result(len(guess), right)
        at += right + 1
        steps, drafted, accepted = steps + 1, drafted + len(guess), accepted + right
    return steps, drafted, accepted


# --- earlier occurrences of the last tokens


few = st.lists(st.integers(0, 3), max_size=40)


def slow_draft(context: list[int], tokens: list[int], most: int) -> list[int]:
    """Return the draft that the index should propose, by searching all positions."""
    everything = [*context, -1, *tokens] if context else tokens
    end, places = len(everything) - 1, []
    for place in range(end - 1, -1, -1):
        agree = 0
        while (
            agree < FARTHEST
            and agree <= place
            and everything[place - agree] == everything[end - agree]
        ):
            agree += 1
        if agree >= KEY:
            places.append((agree, place))
    if not places or -1 in everything[end - KEY + 1 :]:
        return []
    _, place = max(places[:PLACES])
    guess: list[int] = []
    for i in range(place + 1, place + 1 + most):
        if place < len(context) and i >= len(context):
            break
        guess.append(everything[i] if i <= end else guess[i - end - 1])
    return guess


@given(few, few, few, st.integers(0, MOST))
def test_index_finds_the_same_draft_as_a_full_search(
    context: list[int], tokens: list[int], more: list[int], most: int
) -> None:
    index = TokenIndex(tokens, context)
    for i, token in enumerate([*more, 0]):
        assert index.propose(most) == slow_draft(context, [*tokens, *more[:i]], most)
        index.append(token)


@given(few, few, few)
def test_index_built_by_appending_equals_index_built_at_once(
    context: list[int], a: list[int], b: list[int]
) -> None:
    index = TokenIndex(a, context)
    for token in b:
        index.append(token)
    assert index.propose() == TokenIndex([*a, *b], context).propose()


def test_keys_of_large_token_ids_do_not_collide() -> None:
    big = (1 << 21) - 2
    index = TokenIndex([big, big, big - 1, 7, big, big, big - 1])
    assert index.propose(1) == [7]
    assert TokenIndex([0, big, big, 7, 1, big, big]).propose() == []


def test_periodic_tokens_give_a_draft_of_full_length() -> None:
    assert TokenIndex([1, 2] * 4).propose() == ([1, 2] * 8)[:MOST]


def test_unlikely_tokens_are_not_drafted() -> None:
    index = TokenIndex([1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3])
    assert index.propose(worth=0.6) == []
    assert index.propose(worth=0.5) == [4]
    assert index.propose(worth=0.3) == [4, 5]
    for token in (4, 5, 6, 7, 8):
        index.append(token)
    assert index.propose(worth=0.6)[:3] == [9, 1, 2]


def test_draft_from_the_context_stops_at_its_end() -> None:
    index = TokenIndex([8, 1, 2, 3], context=[1, 2, 3, 4, 5])
    assert index.propose() == [4, 5]


# --- recent completions


@given(st.binary(max_size=400), st.binary(min_size=2, max_size=80), st.data())
def test_prompt_with_typed_part_of_a_completion_finds_the_rest(
    prompt: bytes, completion: bytes, data: st.DataObject
) -> None:
    recent = RecentCompletions()
    recent.remember(prompt, completion)
    n = data.draw(st.integers(0, len(completion) - 1))
    typed = prompt + completion[:n]
    rest = recent.find(typed)
    assert rest
    assert typed[-LEAST:] + rest in prompt[-TAIL:] + completion
    if len(set(typed[-LEAST:])) == LEAST:
        assert rest == completion[n:]


@given(
    st.lists(st.tuples(st.binary(max_size=60), st.binary(max_size=30)), max_size=5),
    st.binary(max_size=60),
)
def test_found_completion_continues_a_match_of_the_prompt(
    entries: list[tuple[bytes, bytes]], prompt: bytes
) -> None:
    recent = RecentCompletions()
    for before, completion in entries:
        recent.remember(before, completion)
    rest = recent.find(prompt)
    if rest:
        texts = [b + s for b, s in entries if s.endswith(rest)]
        assert any((prompt[-LEAST:] + rest) in text for text in texts)


def test_completion_is_found_mid_word_but_not_after_other_text() -> None:
    recent = RecentCompletions()
    prompt = CODE.encode() + b"\n\ndef volume(width, height, depth):\n    "
    recent.remember(prompt, b"return area(width, height) * depth\n")
    assert recent.find(prompt) == b"return area(width, height) * depth\n"
    assert recent.find(prompt + b"return ar") == b"ea(width, height) * depth\n"
    assert recent.find(prompt + b"return aq") == b""
    assert recent.find(prompt + b"return area(width, height) * depth\n") == b""
    assert recent.find(prompt[:-1]) == b""  # before the completion's cursor: the user deleted text
    typed = b"other text\n" + prompt[-100:] + b"ret"
    assert recent.find(typed) == b"urn area(width, height) * depth\n"
    assert recent.find(prompt[-LEAST + 1 :]) == b""


def test_longest_match_wins_then_the_latest_completion() -> None:
    recent = RecentCompletions()
    same = b"x" * LEAST
    recent.remember(b"a" + same, b"1")
    recent.remember(b"b" + same, b"2")
    assert recent.find(b"a" + same) == b"1"
    assert recent.find(b"c" + same) == b"1"  # used last
    recent.remember(b"b" + same, b"3")
    assert recent.find(b"c" + same) == b"3"
    assert len(recent) == 2


def test_least_recently_used_completions_are_dropped() -> None:
    recent = RecentCompletions()
    for i in range(MOST_ENTRIES + 1):
        recent.remember(b"%030d" % i, b"text")
        assert recent.find(b"%030d" % 0) == b"text"  # in use
    assert len(recent) == MOST_ENTRIES
    assert recent.find(b"%030d" % 1) == b""
    recent.remember(b"nothing came of it", b"")
    assert len(recent) == MOST_ENTRIES


# --- cost of drafts

costs = st.floats(0.001, 2)


def account(cost: float) -> Draft:
    """Return the draft of a request with nothing to draft from; a draft token costs `cost` steps."""
    return Drafter(lambda _: [], lambda _: b"", cost=cost).begin([])


@given(costs, st.lists(st.integers(0, MOST), max_size=200))
def test_rejected_drafts_cost_at_most_their_share_of_steps(cost: float, wanted: list[int]) -> None:
    draft, drafted = account(cost), 0
    for steps, n in enumerate(wanted):
        n = draft.allowed(n)
        drafted += n
        assert cost * drafted <= SHARE * steps + FIRST * cost + 1e-6
        draft.result(n, 0)


@given(costs, st.lists(st.tuples(st.integers(0, MOST), st.integers(0, MOST)), max_size=200))
def test_drafts_cost_at_most_saved_steps_and_their_share(
    cost: float, wanted: list[tuple[int, int]]
) -> None:
    draft, drafted, saved = account(cost), 0, 0
    for steps, (n, right) in enumerate(wanted):
        n = draft.allowed(n)
        right = min(n, right)
        drafted += n
        assert cost * drafted <= SHARE * steps + saved + FIRST * cost + 1e-6
        saved += right
        draft.result(n, right)


@pytest.mark.parametrize("cost", [0.02, 0.1, 0.6])
def test_accepted_drafts_raise_the_draft_length_to_the_maximum(cost: float) -> None:
    draft = account(cost)
    for _ in range(3):
        draft.result(draft.allowed(MOST), draft.allowed(MOST))
    assert draft.allowed(99) == MOST
    for _ in range(5):
        draft.result(draft.allowed(MOST), 0)
    assert draft.allowed(MOST) <= max(1, 0.1 / cost)


# --- complete drafts


def test_repeated_code_needs_fewer_steps() -> None:
    d, words = drafter()
    tokens = words((CORPUS / "python.txt").read_bytes()[:3000])
    assert max(tokens) < 1000
    steps, _, accepted = generate(d.begin(tokens), tokens)
    assert steps + accepted == len(tokens)
    assert steps < len(tokens) / 5


def test_prediction_is_drafted_from_the_first_token_on() -> None:
    drafts, words = drafter()
    draft = drafts.begin(words(b"# area.py"), (), CODE.encode())
    steps, _, accepted = generate(draft, words(CODE.encode()))
    assert accepted > 2 * steps


def test_wrong_prediction_costs_little() -> None:
    drafts, words = drafter(cost=0.3)
    draft = drafts.begin(words(b"# area.py"), (), CODE.encode())
    _, drafted, accepted = generate(draft, [words.id(b"%d" % i) for i in range(100)])
    assert accepted == 0
    assert drafted <= MOST


def test_repeated_text_is_not_drafted_before_the_first_token() -> None:
    d, words = drafter()
    draft = d.begin(words(b"abcdabc"))
    assert draft.propose(MOST) == []
    draft.append(words.id(b"abcd"))
    assert draft.propose(MOST) == []
    draft = d.begin(words(b"a,b,c,d;a,b"))
    draft.append(words.id(b","))
    assert b"".join(map(words.piece, draft.propose(3))) == b"c,d"


def test_draft_repeats_tokens_of_the_context() -> None:
    d, words = drafter()
    draft = d.begin(words(b"def"), context=words(CODE.encode()))
    for token in words(b" area(width,"):
        draft.append(token)
    assert words.piece(draft.propose(1)[0]) == b" height"


PROMPT = CODE.encode() + b"\n\ndef volume(width, height, depth):\n    "
COMPLETION = b"return area(width, height) * depth\n\n\nprint(volume(1, 2, 3))\n"


def remembered(d: Drafter, words: Words, prompt: list[int]) -> None:
    draft = d.begin(prompt)
    for token in words(COMPLETION):
        draft.append(token)
    draft.end()


def test_repeated_prompt_drafts_the_remembered_completion_from_its_start() -> None:
    d, words = drafter()
    remembered(d, words, words(PROMPT))
    tokens = words(COMPLETION)
    n_calls = words.n_calls
    steps, drafted, accepted = generate(d.begin(words(PROMPT)), tokens)
    # `words(PROMPT)` is the first call; the remembered completion is tokenized only once.
    assert (steps + accepted, words.n_calls) == (len(tokens), n_calls + 2)
    assert accepted > 0.7 * len(tokens)
    assert drafted - accepted <= 1


def test_remembered_completion_is_drafted_even_if_tokens_differ() -> None:
    d, words = drafter()
    remembered(d, words, words(PROMPT))
    draft = d.begin(words(PROMPT + b"return ar"))
    assert b"".join(map(words.piece, draft.propose(3))) == b"ea(width"
    # the model generates the same text as other tokens
    draft.append(words.id(b"e"))
    assert b"".join(map(words.piece, draft.propose(3))) == b"a(width"
    draft.append(words.id(b"a(w"))
    assert b"".join(map(words.piece, draft.propose(2))) == b"idth,"
    # different text ends the remembered completion; the index is used instead
    for token in words(b"xyz\n    if height < 0"):
        draft.append(token)
    assert words.piece(draft.propose(1)[0]) == b":"


def test_prefix_is_found_in_a_fill_in_the_middle_prompt() -> None:
    d, words = drafter(fim=FIM)
    suffix = words(b"\n\nif __name__ == '__main__':\n    main()\n")
    assert d.before_cursor([1001, *words(PROMPT), 1002, *suffix, 1003]) == PROMPT[-TAIL:]
    assert d.before_cursor([1001, 1002, *suffix, 1003, *words(PROMPT)])[-200:] == PROMPT[-200:]
    remembered(d, words, [1001, *words(PROMPT), 1002, *suffix, 1003])
    draft = d.begin([1001, *words(PROMPT + b"return area("), 1002, *suffix, 1003])
    assert b"".join(map(words.piece, draft.propose(2))) == b"width,"


def test_empty_prompt_and_empty_completion_are_accepted() -> None:
    d, words = drafter()
    draft = d.begin([])
    assert draft.propose(MOST) == []
    draft.end()
    assert len(d.recent) == 0
    draft.append(words.id(b"x"))
    assert draft.propose(MOST) == []
    draft.end()
    assert d.begin([]).propose(MOST) == [words.id(b"x")]


@given(st.lists(st.integers(0, 5), max_size=30), st.lists(st.integers(0, 5), max_size=60), costs)
def test_drafts_keep_the_text_and_their_cost_limit(
    prompt: list[int], tokens: list[int], cost: float
) -> None:
    d, words = drafter(cost=cost)
    for i in range(6):
        words.id(b"token%d " % i)
    for _ in range(2):
        draft = d.begin(prompt)
        steps, drafted, accepted = generate(draft, tokens)
        assert steps + accepted == len(tokens)
        assert cost * drafted <= 0.05 * steps + accepted + MOST * cost + 1e-6
        draft.end()

"""The router: the upstream of a request, how far its load may grow, and changes of the upstreams."""

from __future__ import annotations

import random
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from serve.upstream.health import Outcome
from serve.upstream.ring import HashRing
from serve.upstream.routing import BALANCE, BLOCK_CHARACTERS, RouteKey, Router, Upstream, prompt_key

names = st.lists(st.text("abcdefgh.:0123456789", min_size=1), min_size=1, max_size=12, unique=True)
keys = st.builds(
    RouteKey,
    session=st.none() | st.text(max_size=4),
    file=st.none() | st.text(max_size=4),
    prefix=st.none() | st.text(max_size=4),
)


def router(*given: str, slots: int = 1_000) -> Router:
    return Router(Upstream(name, slots=slots) for name in given)


def homes(of: Router, n: int = 4_000) -> dict[int, str | None]:
    return {i: of.pick(RouteKey(session=f"session {i}"), 0.0) for i in range(n)}


@given(names)
def test_walk_yields_each_upstream_once(given: list[str]) -> None:
    assert sorted(HashRing(dict.fromkeys(given, 1.0)).walk("key")) == sorted(given)


def test_removal_moves_only_the_keys_of_the_removed_upstream() -> None:
    of = router(*"abcdefgh")
    before = homes(of)
    of.replace(Upstream(name, slots=1_000) for name in "abcdefg")
    after = homes(of)
    moved = {i for i in before if before[i] != after[i]}
    assert moved == {i for i in before if before[i] == "h"}
    assert 0.5 / 8 < len(moved) / len(before) < 2 / 8


def test_addition_moves_keys_only_to_the_added_upstream() -> None:
    of = router(*"abcdefg")
    before = homes(of)
    of.replace(Upstream(name, slots=1_000) for name in "abcdefgh")
    after = homes(of)
    moved = {i for i in before if before[i] != after[i]}
    assert {after[i] for i in moved} == {"h"}
    assert 0.5 / 8 < len(moved) / len(before) < 2 / 8


def test_draining_moves_the_same_keys_as_removal() -> None:
    drained, removed = router(*"abcd"), router(*"abc")
    drained.drain("d")
    assert homes(drained) == homes(removed)


def test_keys_are_spread_by_weight() -> None:
    of = Router([Upstream("light", 1.0, 1_000), Upstream("heavy", 3.0, 1_000)])
    heavy = sum(name == "heavy" for name in homes(of).values()) / 4_000
    assert 0.65 < heavy < 0.85


@given(names, keys)
def test_choice_depends_only_on_names_and_key(given: list[str], key: RouteKey) -> None:
    assert router(*given).pick(key, 0.0) == router(*given).pick(key, 5.0)


@given(names.filter(lambda n: len(n) > 1), st.lists(keys, max_size=60), st.integers(1, 4))
def test_no_upstream_exceeds_the_bound(given: list[str], asked: list[RouteKey], slots: int) -> None:
    of = router(*given, slots=slots)
    loads = dict.fromkeys(given, 0)
    for n, key in enumerate(asked, 1):
        name = of.pick(key, 0.0)
        assert name is not None
        of.begin(name, 0.0)
        loads[name] += 1
        assert loads[name] <= max(slots, ceil(BALANCE * n / len(given)))


@given(names, st.integers(0, 2**32), st.integers(1, 4))
def test_bound_holds_while_requests_end_and_upstreams_are_excluded(
    given: list[str], seed: int, slots: int
) -> None:
    of, choose = router(*given, slots=slots), random.Random(seed)
    running: list[str] = []
    for i in range(80):
        if running and choose.random() < 0.4:
            name = running.pop(choose.randrange(len(running)))
            of.end(name, Outcome.OK, float(i), 0.1)
            continue
        excluded = [name for name in given if choose.random() < 0.3]
        allowed = [name for name in given if name not in excluded]
        found = of.pick(RouteKey(session=str(choose.randrange(5))), float(i), excluded)
        assert (found in allowed) if allowed else found is None
        if found is not None:
            of.begin(found, float(i))
            running.append(found)
            load = sum(running.count(name) for name in allowed)
            assert running.count(found) <= max(slots, ceil(BALANCE * load / len(allowed)))


def test_weights_share_the_bound() -> None:
    of = Router([Upstream("light", 1.0, 1), Upstream("heavy", 3.0, 1)])
    loads = {"light": 0, "heavy": 0}
    for n in range(1, 41):
        name = of.pick(RouteKey(session="one"), 0.0)
        assert name is not None
        of.begin(name, 0.0)
        loads[name] += 1
        assert loads["light"] <= max(1, ceil(BALANCE * n / 4))
        assert loads["heavy"] <= max(1, ceil(BALANCE * 3 * n / 4))
    assert min(loads.values()) > 0


@given(names)
def test_every_upstream_is_reached(given: list[str]) -> None:
    assert set(homes(router(*given), 2_000).values()) == set(given)


def test_session_outweighs_file_and_file_outweighs_prompt() -> None:
    of = router(*"abcdefgh")
    for i in range(50):
        alone = of.pick(RouteKey(session=f"s{i}"), 0.0)
        assert of.pick(RouteKey(f"s{i}", f"f{i}", f"p{i}"), 0.0) == alone
        alone = of.pick(RouteKey(file=f"f{i}"), 0.0)
        assert of.pick(RouteKey(file=f"f{i}", prefix=f"p{i}"), 0.0) == alone


def test_request_above_the_bound_goes_to_the_home_of_its_file() -> None:
    of = router(*"abcdefgh", slots=1)
    homes_of_files = {of.pick(RouteKey(file=str(i)), 0.0): str(i) for i in range(200)}
    home = of.pick(RouteKey(session="s"), 0.0)
    assert home is not None
    of.begin(home, 0.0)
    for name, file in homes_of_files.items():
        if name != home:
            assert of.pick(RouteKey(session="s", file=file), 0.0) == name


def test_request_without_ties_goes_to_the_least_loaded() -> None:
    of = router(*"abc")
    for name in "aab":
        of.begin(name, 0.0)
    assert of.pick(RouteKey(), 0.0) == "c"


def test_upstream_that_left_keeps_its_requests_until_they_end() -> None:
    of = router(*"ab")
    of.begin("b", 0.0)
    of.replace([Upstream("a")])
    assert {s.name: (s.state, s.in_flight) for s in of.states(0.0)} == {
        "a": ("healthy", 0), "b": ("draining", 1),
    }  # fmt: skip
    assert set(homes(of, 50).values()) == {"a"}
    of.end("b", Outcome.OK, 1.0, 0.1)
    assert [s.name for s in of.states(1.0)] == ["a"]


def test_upstream_that_returns_keeps_its_load() -> None:
    of = router(*"ab")
    of.begin("b", 0.0)
    of.replace([Upstream("a")])
    of.replace([Upstream("a"), Upstream("b")])
    assert {s.name: (s.state, s.in_flight) for s in of.states(0.0)}["b"] == ("healthy", 1)
    of.end("b", Outcome.OK, 1.0, 0.1)
    assert {s.name: s.in_flight for s in of.states(1.0)} == {"a": 0, "b": 0}


def test_router_without_upstreams_picks_none() -> None:
    assert router().pick(RouteKey(session="s"), 0.0) is None
    assert router().pick(RouteKey(), 0.0) is None


def test_prompts_with_a_long_common_beginning_share_a_key() -> None:
    start = "def function():\n    return 1\n" * 100
    assert prompt_key(start + "x = 1") == prompt_key(start + "y = 2, and more")
    assert prompt_key("#" + start) != prompt_key(start)


def test_prompt_without_a_whole_block_has_no_key() -> None:
    assert prompt_key("x" * (BLOCK_CHARACTERS - 1)) is None
    assert prompt_key("x" * BLOCK_CHARACTERS) is not None
    assert prompt_key([1, 2, 3]) is None


def test_key_of_tokens_ignores_tokens_after_the_first_blocks() -> None:
    start = list(range(1_000))
    assert prompt_key([*start, 1]) == prompt_key([*start, 2, 3])
    assert prompt_key([7, *start]) != prompt_key(start)


@given(st.text(max_size=3_000))
def test_any_text_has_a_key_or_none(text: str) -> None:
    assert (prompt_key(text) is None) == (len(text) < BLOCK_CHARACTERS)

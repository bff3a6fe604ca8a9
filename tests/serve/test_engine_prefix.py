"""Computed prefixes are reused: from the prefix tree, the prefix store, its files and other slots."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.engine import Engine, EngineOptions
from serve.engine.answer_cache import AnswerCache, name_of
from serve.engine.checkpoints import INTERVAL, TAIL
from serve.engine.prefix_file import read_prefix, read_tokens, write_prefix
from serve.engine.prefix_store import PrefixStore
from serve.prefix_tree import PrefixTree, common_prefix
from serve.request import Finished
from tests.serve.test_engine_faults import run_all
from tests.serve.test_engine_step import expected, last, request, run, text_of
from tests.support.fakes import FakeDecoder, script

TOKENS = st.lists(st.integers(0, 2), max_size=12)


@given(TOKENS, TOKENS)
def test_common_prefix_is_the_longest(a: list[int], b: list[int]) -> None:
    n = common_prefix(a, b)
    assert a[:n] == b[:n]
    assert n in (len(a), len(b)) or a[n] != b[n]


@given(st.lists(st.tuples(st.integers(0, 5), st.one_of(st.none(), TOKENS)), max_size=30), TOKENS)
def test_tree_match_equals_comparison_with_all_sequences(
    changes: list[tuple[int, list[int] | None]], wanted: list[int]
) -> None:
    tree: PrefixTree[int] = PrefixTree()
    plain: dict[int, list[int]] = {}
    for holder, tokens in changes:
        plain.pop(holder, None)
        if tokens is None:
            tree.remove(holder)
        else:
            tree.insert(holder, tokens)
            if tokens:
                plain[holder] = tokens
    found = {h: n for n, holders in tree.match(wanted) for h in holders}
    assert found == {h: n for h, t in plain.items() if (n := common_prefix(t, wanted))}
    assert [n for n, _ in tree.match(wanted)] == sorted(set(found.values()), reverse=True)
    assert len(tree) == len(plain)


def test_tree_is_empty_after_all_holders_are_removed() -> None:
    tree: PrefixTree[str] = PrefixTree()
    for holder, tokens in (("a", [1, 2, 3, 4]), ("b", [1, 2, 5]), ("c", [1, 2])):
        tree.insert(holder, tokens)
    for holder in "abc":
        tree.remove(holder)
    assert not tree._root.children


def test_answer_cache_drops_the_unused_half_and_compares_lengths() -> None:
    known = AnswerCache(most=4)
    names = [name_of([i]) for i in range(6)]
    for i, name in enumerate(names):
        known.learn(name, 1, i)
        known.next(names[0], 1)  # keep it in use
    assert known.next(names[0], 1) == 0
    assert known.next(names[1], 1) is None
    assert known.next(names[5], 1) == 5
    assert known.next(names[5], 2) is None
    assert name_of([3], name_of([1, 2])) == name_of([1, 2, 3])


def test_store_keeps_recently_used_prefixes_and_replaces_contained_ones() -> None:
    store = PrefixStore(max_bytes=3 * (100 + 8 * 3))
    for tokens in ([1, 2, 3], [4, 5, 6], [7, 8, 9]):
        store.put(tokens, b"x" * 100)
    found = store.longest([1, 2, 9])
    assert found
    assert found[0] == 2
    assert store.get(found[1]) == b"x" * 100
    store.put([1, 3, 3], b"y" * 100)  # drops [4, 5, 6], the least recently used
    assert len(store) == 3
    assert store.longest([4, 5, 6]) is None
    store.put([1, 3, 3, 3], b"y" * 90)
    assert len(store) == 3
    assert store.covers([1, 3, 3])
    store.put([5] * 1000, b"")  # a decoder that cannot save
    store.put([5] * 1000, b"z" * 1000)  # more than fits
    assert len(store) == 3
    assert store.n_bytes <= store.max_bytes


def test_prefix_files_are_read_by_the_next_store(tmp_path: Path) -> None:
    folder = tmp_path / "prefixes"
    store = PrefixStore(10_000, "model a", folder)
    store.put([1, 2, 3], b"one")
    store.put([1, 5], b"two")
    store.close()
    assert all(p.stat().st_mode & 0o077 == 0 for p in folder.iterdir())
    assert len(PrefixStore(10_000, "model b", folder)) == 0
    again = PrefixStore(10_000, "model a", folder)
    assert len(again) == 2
    found = again.longest([1, 2, 3, 4])
    assert found
    assert again.get(found[1]) == b"one"
    again.put([1, 5, 6], b"three")  # contains the second
    again.close()
    assert sorted(read_tokens(p, again._identity) for p in folder.iterdir()) == [
        (1, 2, 3),
        (1, 5, 6),
    ]


@pytest.mark.parametrize("harm", ["cut", "flip", "other", "empty", "gone"])
def test_damaged_prefix_file_is_ignored(tmp_path: Path, harm: str) -> None:
    store = PrefixStore(10_000, "m", tmp_path)
    store.put([1, 2, 3], b"state")
    store.close()
    store = PrefixStore(10_000, "m", tmp_path)
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    changed = {
        "cut": data[:-1],
        "flip": data[:-1] + b"X",
        "other": b"X" + data[1:],
        "empty": b"",
    }
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(changed[harm])
    found = store.longest([1, 2, 3])
    assert found
    assert store.get(found[1]) is None
    assert store.longest([1, 2, 3]) is None
    # A flipped byte is found only when the state is read.
    assert len(PrefixStore(10_000, "m", tmp_path)) == (harm == "flip")


def test_unwritable_prefix_folder_is_logged_as_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = PrefixStore(10_000, "m", tmp_path / "f")
    store.put([1], b"state")
    (tmp_path / "f").rmdir()
    store.close()
    assert "could not be saved" in caplog.text


def test_disabled_store_does_not_touch_files(tmp_path: Path) -> None:
    store = PrefixStore(10_000, "m", tmp_path)
    store.put([1, 2], b"state")
    store.close()
    (path,) = tmp_path.iterdir()
    store = PrefixStore(0, "m", tmp_path)
    assert not store.keeps
    assert store.longest([1, 2]) is None
    store.close()
    assert path.exists()


def test_prefix_file_round_trips_and_rejects_another_identity(tmp_path: Path) -> None:
    path = tmp_path / "x.prefix"
    write_prefix(path, "0" * 16, (1, 2**30), b"abc")
    assert read_tokens(path, "0" * 16) == (1, 2**30)
    assert read_prefix(path, "0" * 16) == b"abc"
    with pytest.raises(ValueError, match="not a cached prefix of this model"):
        read_prefix(path, "1" * 16)


@pytest.mark.parametrize("n_cells", [128, 512])
def test_concurrent_requests_compute_a_shared_prefix_once(n_cells: int) -> None:
    """Submit all requests at once: one computes the shared prefix, and the others wait and copy it."""
    decoder = FakeDecoder(n_ctx=128, n_cells=n_cells, n_seq=4, n_batch=16)
    engine = Engine(decoder, EngineOptions(n_slots=4, drafts=False))
    beginning = "import everything # " * 4
    for i in range(4):
        engine.submit(i, request(beginning + str(i), 4))
    events = run(engine)
    for i in range(4):
        assert text_of(events[i]) == expected(beginning + str(i), 4)
    assert sum(decoder.batches) == len(beginning) + 4 + 4 * 3
    assert [last(events[i]).usage.cached_tokens for i in range(4)] == [0, 80, 80, 80]


def test_short_request_does_not_wait_for_a_long_prompt() -> None:
    decoder = FakeDecoder(n_ctx=1024, n_cells=2048, n_seq=2, n_batch=16)
    engine = Engine(decoder, EngineOptions(n_slots=2))
    engine.submit(1, request("x" * 900, 2))
    engine.step()
    engine.submit(2, request("y" * 20, 2))
    steps = 0
    ended: list[int] = []
    while 2 not in ended:
        steps += 1
        ended += [i for i, e in engine.step() if isinstance(e, Finished)]
    assert steps <= 5
    assert ended == [2]
    run_all(engine)


def test_evicted_prefix_is_restored_from_the_store() -> None:
    decoder = FakeDecoder(n_ctx=256, n_seq=1, n_batch=64)
    engine = Engine(decoder, EngineOptions(prefix_cache_bytes=10**6))
    first, second = "first file " * 8, "second file " * 8
    run(engine, engine.submit(1, request(first, 2)))
    run(engine, engine.submit(2, request(second, 2)))
    decoder.batches.clear()
    events = run(engine, engine.submit(3, request(first + "more", 2)))[3]
    assert text_of(events) == expected(first + "more", 2)
    assert last(events).usage.cached_tokens == len(first)
    assert engine.metrics.restored_tokens == len(first)
    assert sum(decoder.batches) <= len("more") + 2 + engine.metrics.drafted_tokens


def test_restarted_engine_reuses_stored_prefixes(tmp_path: Path) -> None:
    options = EngineOptions(prefix_cache_bytes=10**6, prefix_folder=tmp_path)
    text = "a file that is long enough to be worth keeping"
    engine = Engine(FakeDecoder(), options)
    run(engine, engine.submit(1, request(text, 2)))
    engine.close()
    engine = Engine(FakeDecoder(), options)
    events = run(engine, engine.submit(1, request(text + "!", 2)))[1]
    assert last(events).usage.cached_tokens == len(text)
    assert text_of(events) == expected(text + "!", 2)


def test_prompts_with_a_shared_prefix_keep_separate_slots() -> None:
    """Two windows on one file do not overwrite each other's tokens."""
    decoder = FakeDecoder(n_ctx=256, n_cells=512, n_seq=2, n_batch=64)
    engine = Engine(decoder, EngineOptions(n_slots=2, drafts=False))
    shared, one, two = "s" * 60, "1" * 60, "2" * 60
    run(engine, engine.submit(1, request(shared + one, 1)))
    run(engine, engine.submit(2, request(shared + two, 1)))
    for i, text in ((3, shared + one + "x"), (4, shared + two + "x")):
        events = run(engine, engine.submit(i, request(text, 1)))[i]
        assert last(events).usage.cached_tokens >= 120


def test_slot_is_overwritten_if_a_copy_of_its_prefix_has_no_room() -> None:
    """Otherwise the request would wait forever: nothing is running that could leave room."""
    engine = Engine(FakeDecoder(n_ctx=256, n_seq=4, n_batch=64), EngineOptions(n_slots=4))
    shared = "s" * 44
    run(engine, engine.submit(1, request(shared + "1" * 165, 1)))
    events = run(engine, engine.submit(2, request(shared + "2" * 180, 1)))[2]
    assert last(events).usage.cached_tokens == len(shared)


def document(name: str, n: int = 300) -> str:
    """Return a text that shares no prefix with those of other names."""
    return "".join(chr(ord("a") + i % 7) for i in range(n)).join((name, name))


def test_versions_of_a_document_leave_one_stored_prefix() -> None:
    store = PrefixStore(100_000)
    text = list(document("x").encode())
    for i in range(5):
        store.put([*text, *range(10 * i, 10 * i + 10)], b"state")
    assert len(store) == 1
    store.put(text[:200], b"state")  # contained in the stored prefix, which is not checked here
    store.put([*text[:100], *range(100)], b"state")  # 200 other tokens at the end: kept separately
    assert len(store) == 3


def test_prefix_being_restored_is_not_evicted_from_the_store() -> None:
    decoder = FakeDecoder(n_ctx=512, n_cells=512, n_batch=64)
    engine = Engine(decoder, EngineOptions(prefix_cache_bytes=4000, drafts=False))
    texts = [document(name) for name in "xyz"]
    for i, text in enumerate(texts):
        run(engine, engine.submit(i, request(text, 4)))
    assert len(engine._store) == 1  # there is room for only one
    oldest = next(iter(engine._store._entries.values())).tokens
    asked = bytes(oldest).decode() + "!"
    end = last(run(engine, engine.submit(9, request(asked, 4)))[9])
    assert end.usage.cached_tokens == len(oldest)
    assert engine.metrics.restored_tokens == len(oldest)


def test_rejected_completion_does_not_evict_another_file() -> None:
    decoder = FakeDecoder(n_ctx=1024, n_cells=2048, n_seq=2, n_batch=64)
    engine = Engine(decoder, EngineOptions(n_slots=2, drafts=False))
    texts = [document(name) for name in "xy"]
    for i, text in enumerate(texts):
        run(engine, engine.submit(i, request(text, 60)))
    for i in range(5):  # a different continuation each time
        run(engine, engine.submit(10 + i, request(f"{texts[1]}{i}", 60)))
    end = last(run(engine, engine.submit(20, request(texts[0] + "!", 4)))[20])
    assert end.usage.cached_tokens == len(texts[0])


def test_copies_of_a_document_are_evicted_before_another_document() -> None:
    decoder = FakeDecoder(n_ctx=1024, n_cells=3 * 1024, n_seq=3, n_batch=64)
    engine = Engine(decoder, EngineOptions(n_slots=3, drafts=False))
    x, y, z = map(document, "xyz")
    run(engine, engine.submit(0, request(x, 4)))
    events = engine.submit(1, request(y + "1", 4))  # two at once: two slots
    events += engine.submit(2, request(y + "2", 4))
    run(engine, events)
    # x is the least recently used, but two slots hold y.
    run(engine, engine.submit(3, request(z, 4)))
    end = last(run(engine, engine.submit(4, request(x + "!", 4)))[4])
    assert end.usage.cached_tokens == len(x)


def computed_tokens(engine: Engine, decoder: FakeDecoder, prompt: str) -> int:
    before = sum(decoder.batches)
    events = run(engine, engine.submit(1, request(prompt, 8)))[1]
    assert text_of(events) == "yes"
    return sum(decoder.batches) - before


def test_model_that_cannot_be_cut_continues_from_a_checkpoint() -> None:
    decoder = FakeDecoder(script("yes"), n_ctx=1024, n_batch=64, can_cut=False)
    engine = Engine(decoder, EngineOptions(prefix_cache_bytes=10**6))
    first, *others = (
        computed_tokens(engine, decoder, document("a", 100 + i) + "?") for i in range(5)
    )
    assert first > 100
    assert max(others) < 2 * TAIL + 8


def test_checkpoints_are_stored_at_intervals() -> None:
    decoder = FakeDecoder(script("yes"), n_ctx=4096, n_batch=64, can_cut=False)
    engine = Engine(decoder, EngineOptions(prefix_cache_bytes=10**6))
    text = document("a", 3 * INTERVAL)[: 2 * INTERVAL + 100]
    assert computed_tokens(engine, decoder, text + "?") > 2 * INTERVAL
    assert computed_tokens(engine, decoder, text[:-50] + "another end of the text?") < 100
    assert computed_tokens(engine, decoder, text[: INTERVAL + 50] + "?") < 100


@pytest.mark.parametrize("shares", [True, False])
def test_cached_prefix_is_used_unless_that_is_switched_off(shares: bool) -> None:
    engine = Engine(FakeDecoder(), EngineOptions(shares=shares))
    beginning = "a prompt of more than thirty-two characters "
    cached = []
    for i, end in enumerate(("one", "two")):
        events = run(engine, engine.submit(i, request(beginning + end, 3)))[i]
        cached.append(last(events).usage.cached_tokens)
    assert cached == [0, len(beginning) if shares else 0]

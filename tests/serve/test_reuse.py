"""Reuse of cached tokens that are not a prefix of the prompt: windows that slide, deleted lines, reordered files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.decoder import BatchItem, Logits
from serve.engine import Engine, EngineOptions
from serve.engine.requests import Emitted
from serve.engine.reuse import GROWTH_SHARE, LEAST_GAIN, SINK, Reuse, find_reuse
from serve.request import GenerationRequest
from tests.support.fakes import FIM, FakeDecoder, script
from turbopilot.corpus import calibration_text
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.llama.context import ContextParameters, LlamaContext
from turbopilot.llama.model import LlamaModel, ModelParameters

LINES = [f"line {i * i:06} of the file\n".encode() for i in range(60)]
N_LINE = len(LINES[0])


def text(first: int, last: int) -> list[int]:
    return list(b"".join(LINES[first:last]))


def piece(token: int) -> bytes:
    return bytes([token]) if token < 256 else b""


def reuse(cached: list[int], prompt: list[int], window: int = 0, *, room: int = 10_000,
          can_move: bool = True) -> Reuse | None:  # fmt: skip
    return find_reuse(cached, prompt, window, room, piece, can_move=can_move)


def begins_with_its_pieces(found: Reuse, cached: list[int]) -> bool:
    held = [t for start, n in found.pieces for t in cached[start : start + n]]
    positions = [i for start, n in found.pieces for i in range(start, start + n)]
    return found.tokens[: found.n] == held and len(set(positions)) == len(positions)


def test_window_that_lost_a_line_grows() -> None:
    cached, prompt = text(0, 20), text(1, 21)
    found = reuse(cached, prompt, can_move=False)
    assert found == Reuse(text(0, 21), ((0, len(cached)),))


@pytest.mark.parametrize("can_move", [False, True])
def test_window_grows_up_to_a_share_of_the_prompt(can_move: bool) -> None:
    n = 20
    most = n // GROWTH_SHARE
    fits = reuse(text(0, n + 5), text(most, n + most), can_move=can_move)
    assert fits is not None
    assert not fits.is_moved
    found = reuse(text(0, n + 5), text(most + 1, n + most + 1), can_move=can_move)
    if not can_move:
        assert found is None
        return
    assert found is not None
    assert found.tokens == text(0, n)[:SINK] + text(most + 1, n + most + 1)
    assert found.pieces[0] == (0, SINK)
    assert begins_with_its_pieces(found, text(0, n + 5))


def test_window_does_not_grow_beyond_the_context() -> None:
    found = reuse(text(0, 20), text(1, 21), room=21 * N_LINE - 1, can_move=True)
    assert found is not None
    assert found.is_moved
    assert reuse(text(0, 20), text(1, 21), room=21 * N_LINE - 1, can_move=False) is None


def test_text_before_the_window_stays_in_front() -> None:
    head = [FIM.prefix]
    found = reuse(head + text(0, 20), head + text(1, 21), window=1)
    assert found is not None
    assert found.tokens == head + text(0, 21)


def test_other_text_before_the_window_prevents_growth() -> None:
    cached, prompt = list(b"a: ") + text(0, 20), list(b"b: ") + text(1, 21)
    assert reuse(cached, prompt, window=3, can_move=False) is None


def test_start_that_is_tokenized_differently_loses_no_text() -> None:
    # The first tokens of a window may differ from those of the same text inside a line.
    spaces, half = 300, 301  # four spaces as one token, or as two
    table = {spaces: b"    ", half: b"  "}

    def bytes_of(token: int) -> bytes:
        return table.get(token) or piece(token)

    cached = [*text(0, 5), half, half, *text(5, 20)]
    prompt = [spaces, *text(5, 20), *text(20, 21)]
    found = find_reuse(cached, prompt, 0, 10_000, bytes_of, can_move=False)
    assert found is not None
    assert found.tokens == [*cached, *text(20, 21)]
    other = [ord("x"), *text(5, 20), *text(20, 21)]
    assert find_reuse(cached, other, 0, 10_000, bytes_of, can_move=False) is None


def test_deleted_line_leaves_two_pieces() -> None:
    found = reuse(text(0, 20), text(0, 8) + text(9, 20))
    assert found is not None
    assert found.tokens == text(0, 8) + text(9, 20)
    assert len(found.pieces) == 2
    assert found.n_left == 1
    assert begins_with_its_pieces(found, text(0, 20))


def test_reordered_files_are_moved() -> None:
    head, a, b = list(b"# repository\n"), text(0, 10), text(30, 40)
    cached, prompt = [*head, *a, *b], [*head, *b, *a, 33]
    found = reuse(cached, prompt, window=len(prompt) - 1)
    assert found is not None
    assert len(found.pieces) == 3
    assert found.n_left <= 2  # a newline that both files could use
    assert found.tokens == prompt
    assert begins_with_its_pieces(found, cached)


def test_changed_word_is_never_lost() -> None:
    prompt = text(0, 10) + list(b"changed ") + text(10, 20)
    found = reuse(text(0, 20), prompt)
    assert found is None, "the lines after the change would have to precede computed tokens"


def test_little_gain_is_not_worth_it() -> None:
    cached = text(0, 20)
    assert reuse(cached, cached[: -LEAST_GAIN + 10]) is None
    assert reuse(text(0, 20), text(30, 50)) is None


@given(
    cached=st.lists(st.integers(0, 3), max_size=300),
    start=st.integers(0, 200),
    cut=st.integers(0, 100),
    new=st.lists(st.integers(0, 3), min_size=1, max_size=80),
    window=st.integers(0, 3),
    can_move=st.booleans(),
)
def test_any_reuse_ends_with_the_prompt_and_begins_with_cached_tokens(
    cached: list[int], start: int, cut: int, new: list[int], window: int, can_move: bool
) -> None:
    prompt = cached[start : len(cached) - cut] + new
    found = reuse(cached, prompt, window, can_move=can_move, room=400)
    if found is None:
        return
    assert begins_with_its_pieces(found, cached)
    assert found.n < len(found.tokens) <= 400
    assert found.tokens[:window] == prompt[:window]
    n = len(prompt) - 16 - window
    assert n <= 0 or found.tokens[-n:] == prompt[-n:]
    if not can_move:
        assert not found.is_moved


def finish(engine: Engine) -> str:
    """Run all requests to their end; return their text."""
    events: list[Emitted] = []
    while engine.has_work:
        events += engine.step()
        engine.check_integrity()
    return "".join(getattr(e, "text", "") for _, e in events)


def run_windows(decoder: FakeDecoder, n: int, *, reuses: bool = True) -> list[int]:
    """Send windows of 20 lines, each one line further; return the number of computed tokens of each."""
    engine = Engine(decoder, EngineOptions(n_slots=decoder.n_seq, reuses=reuses))
    computed = []
    for i in range(n):
        before = sum(decoder.batches)
        engine.submit(i, GenerationRequest((*text(i, i + 20), ord("?")), 8))
        assert finish(engine) == "yes"
        computed.append(sum(decoder.batches) - before)
    return computed


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("can_move", [False, True])
def test_sliding_windows_compute_only_the_new_line(pooled: bool, can_move: bool) -> None:
    n_ctx = 40 * N_LINE
    decoder = FakeDecoder(
        script("yes"), n_ctx=n_ctx, n_cells=n_ctx if pooled else 2 * n_ctx, n_batch=64, n_seq=2,
        can_move=can_move,
    )  # fmt: skip
    first, *others = run_windows(decoder, 30)
    assert first > 20 * N_LINE
    n_read_again = sum(n > N_LINE + 10 for n in others)
    assert n_read_again == (0 if can_move else 2), "when a window has grown too much"
    assert (decoder.n_moves > 0) == can_move


def test_state_is_stored_before_its_tokens_are_moved() -> None:
    """Delete many lines, and undo that: the stored state must be the one before the move."""
    n_ctx = 60 * N_LINE
    whole, short = text(0, 40), text(0, 10) + text(20, 40)
    decoder = FakeDecoder(n_ctx=n_ctx, n_batch=64, can_move=True)
    engine = Engine(decoder, EngineOptions(prefix_cache_bytes=10**6, drafts=False))
    texts = []
    for i, prompt in enumerate((whole, short, whole)):
        # Different ends, so that no completion comes from the answer cache.
        engine.submit(i, GenerationRequest((*prompt, ord("a") + i), 8))
        texts.append(finish(engine))
    assert decoder.n_moves == 1
    assert engine._store.n_hits == 1
    fresh = Engine(FakeDecoder(n_ctx=n_ctx, n_batch=64), EngineOptions(drafts=False))
    fresh.submit(1, GenerationRequest((*whole, ord("c")), 8))
    assert texts[2] == finish(fresh)


def test_moved_slot_is_not_copied_or_stored_before_the_next_step() -> None:
    n_ctx = 60 * N_LINE
    decoder = FakeDecoder(n_ctx=n_ctx, n_cells=2 * n_ctx, n_seq=2, n_batch=64, can_move=True)
    engine = Engine(decoder, EngineOptions(n_slots=2, prefix_cache_bytes=10**6, drafts=False))
    whole, short = (*text(0, 40), 1), text(0, 10) + text(20, 40)
    engine.submit(1, GenerationRequest(whole, 8))
    finish(engine)
    # Two requests with the same prefix are admitted in one step; the first one moves it.
    engine.submit(2, GenerationRequest((*short, 2), 8))
    engine.submit(3, GenerationRequest((*short, 3), 8))
    for s in engine._scheduler.admit():
        assert s.id in (2, 3)
    assert decoder.n_moves == 1
    engine.cancel(2)
    engine.cancel(3)
    engine.submit(4, GenerationRequest((*text(40, 60), 4), 8))
    engine.submit(5, GenerationRequest((*text(45, 60), 5), 8))
    finish(engine)
    engine.close()


def test_reuse_can_be_turned_off() -> None:
    decoder = FakeDecoder(script("yes"), n_ctx=40 * N_LINE, n_batch=64, can_move=True)
    assert min(run_windows(decoder, 3, reuses=False)) > 19 * N_LINE


@pytest.fixture(scope="module")
def context(demo_gguf: Path) -> LlamaContext:
    model = LlamaModel(read_gguf(demo_gguf), ModelParameters())
    return LlamaContext(
        model, ContextParameters(n_ctx=1024, n_seq=2, n_batch=512, kv_unified=False)
    )


def divergence(expected: Logits, found: Logits) -> float:
    """KL divergence of the next token's distribution."""
    p, q = (
        x.astype(np.float64) - np.logaddexp.reduce(x.astype(np.float64)) for x in (expected, found)
    )
    return float(np.sum(np.exp(p) * (p - q)))


def test_pieces_moved_there_and_back_compute_the_same(context: LlamaContext) -> None:
    ids = context.model.tokenize(calibration_text()[:1500], parse_special=False)[:400]
    expected = context.read(ids, 0, range(399, 400))[0].copy()
    context.remove(0, 399)
    context.move(0, [(0, 50), (200, 199), (50, 150)])
    swapped = [*ids[:50], *ids[200:399], *ids[50:200]]
    context.read([ids[0]], len(swapped), range(0))  # computes the rotation
    context.remove(0, len(swapped))
    context.move(0, [(0, 50), (249, 150), (50, 199)])
    found = context.decode([BatchItem(ids[399], 399, 0, True)])[0]
    assert divergence(expected, found) < 1e-4
    context.clear()


def test_moved_window_predicts_almost_the_same(context: LlamaContext) -> None:
    ids = context.model.tokenize(calibration_text()[:3000], parse_special=False)[:600]
    context.read(ids[:450], 0, range(0))
    context.move(0, [(0, SINK), (100, 350)])
    window = ids[:SINK] + ids[100:]
    found = context.read(window[354:], 354, range(len(window) - 1, len(window)))[0].copy()
    context.clear()
    expected = context.read(ids[100:], 0, range(499, 500))[0].copy()
    context.clear()
    assert divergence(expected, found) < 0.1

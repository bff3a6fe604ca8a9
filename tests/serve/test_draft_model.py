"""A draft model changes only the number of steps, even if its drafts are wrong or it fails."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.decoder import BatchItem
from serve.drafting import DraftModel, DraftWish, check_same_vocabulary
from serve.engine import Engine, EngineOptions
from tests.serve.test_engine_step import expected, request, run, text_of
from tests.support.fakes import FakeDecoder, Reply, letters
from turbopilot.base.errors import DecoderFailed, InvalidInput


def sometimes_wrong(history: Sequence[int]) -> int:
    return letters(history) if len(history) % 3 else ord("?")


def engine_with(reply: Reply, n_seq: int = 1, **more: object) -> tuple[Engine, FakeDecoder]:
    model = FakeDecoder(n_seq=n_seq, n_cells=256 * n_seq, n_batch=64)
    small = FakeDecoder(reply, n_seq=n_seq, n_cells=256 * n_seq, n_batch=8, **more)  # type: ignore[arg-type]
    engine = Engine(model, EngineOptions(n_slots=n_seq), draft_model=DraftModel(small))
    return engine, model


def test_accepted_drafts_of_a_draft_model_save_steps() -> None:
    engine, model = engine_with(letters)
    events = run(engine, engine.submit(1, request("def f():", 60)))[1]
    assert text_of(events) == expected("def f():", 60)
    assert engine.metrics.accepted_tokens == engine.metrics.drafted_tokens > 40
    assert len(model.batches) < 20


def test_draft_model_with_rejected_drafts_is_used_less() -> None:
    engine, _ = engine_with(lambda _: ord("?"))
    events = run(engine, engine.submit(1, request("def f():", 60)))[1]
    assert text_of(events) == expected("def f():", 60)
    assert engine.metrics.drafted_tokens < 15
    assert engine.metrics.accepted_tokens == 0


@settings(deadline=None, max_examples=50)
@given(
    st.sampled_from([letters, sometimes_wrong]),
    st.lists(
        st.tuples(st.text("ab", min_size=1, max_size=30), st.integers(1, 20)),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 3),
    st.booleans(),
)
def test_draft_model_does_not_change_the_text(
    reply: Reply, jobs: list[tuple[str, int]], n_seq: int, can_cut: bool
) -> None:
    engine, _ = engine_with(reply, n_seq, can_cut=can_cut)
    events = []
    for i, (prompt, n) in enumerate(jobs):
        events += engine.submit(i, request(prompt, n))
        events += engine.step()
    by_request = run(engine, events)
    for i, (prompt, n) in enumerate(jobs):
        assert text_of(by_request[i]) == expected(prompt, n)


def test_failed_draft_model_is_not_used_again(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: Sequence[BatchItem]) -> DecoderFailed:
        return DecoderFailed("boom")

    engine, _ = engine_with(letters, fail=fail)
    events = run(engine, engine.submit(1, request("def f():", 20)))[1]
    assert text_of(events) == expected("def f():", 20)
    assert engine.metrics.accepted_tokens == 0
    assert caplog.text.count("no longer used") == 1


def test_sequence_too_long_for_the_draft_model_gets_no_draft() -> None:
    draft = DraftModel(FakeDecoder(n_ctx=16))
    assert draft.propose({0: DraftWish([1] * 14, 4)}) == {}
    assert len(draft.propose({0: DraftWish([1] * 12, 4)})[0]) == 4


def test_draft_model_with_another_vocabulary_is_rejected() -> None:
    class Other(FakeDecoder):
        name = "other"

        def piece(self, token: int) -> bytes:
            return b"z" if token == 5 else super().piece(token)

    check_same_vocabulary(FakeDecoder(), FakeDecoder())
    with pytest.raises(InvalidInput, match="token 5 is b'z'"):
        check_same_vocabulary(FakeDecoder(), Other())
    larger = FakeDecoder()
    larger.n_vocab += 1
    with pytest.raises(InvalidInput, match="261 tokens, not 260"):
        check_same_vocabulary(FakeDecoder(), larger)
